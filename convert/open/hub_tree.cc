#include "convert/open/hub_tree.h"

#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"
#include "formats/relative_name.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kAdvice = "download the model again";

// The members of an entry as the tree has them.
struct RawEntry {
  std::uint64_t size = 0;
  std::string blob_id;
  std::string lfs_sha256;
  std::optional<std::uint64_t> lfs_size;
  std::string xet_hash;
};

std::string StringOrNull(formats::JsonReader& reader) {
  if (reader.Peek() == formats::JsonType::kNull) {
    reader.Null();
    return {};
  }
  return std::string(reader.String());
}

RawEntry ReadEntry(formats::JsonReader& reader) {
  RawEntry entry;
  reader.BeginObject();
  while (const auto member = reader.NextMember()) {
    if (*member == "size") {
      entry.size = reader.Uint();
    } else if (*member == "blob_id") {
      entry.blob_id = reader.String();
    } else if (*member == "lfs_sha256") {
      entry.lfs_sha256 = StringOrNull(reader);
    } else if (*member == "lfs_size" && reader.Peek() != formats::JsonType::kNull) {
      entry.lfs_size = reader.Uint();
    } else if (*member == "xet_hash") {
      entry.xet_hash = StringOrNull(reader);
    } else {
      reader.SkipValue();
    }
  }
  return entry;
}

HubTreeEntry Interpret(RawEntry raw, const std::string& record) {
  HubTreeEntry entry;
  entry.file.record = record;
  entry.file.bytes = raw.lfs_size.value_or(raw.size);
  const bool in_lfs = !raw.lfs_sha256.empty() || !raw.xet_hash.empty();
  if (IsLowerHex(raw.lfs_sha256, 64) && raw.lfs_sha256 != raw.xet_hash) {
    entry.file.sha256 = std::move(raw.lfs_sha256);
  } else if (IsLowerHex(raw.blob_id, 40)) {
    // Git itself holds the content, or a pointer to it.
    (in_lfs ? entry.file.pointer_sha1 : entry.file.git_blob_sha1) = std::move(raw.blob_id);
  }
  entry.xet_hash = std::move(raw.xet_hash);
  return entry;
}

}  // namespace

bool IsLowerHex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

HubTree ParseHubTree(std::string_view text, const std::string& name) {
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {}; {}", formats::ShownPath(name), problem, kAdvice), {name, ""});
  };
  HubTree tree;
  formats::JsonReader reader(text, {.file = name, .part = "the listing", .advice = kAdvice});
  bool known_version = false;
  reader.BeginObject();
  while (const auto member = reader.NextMember()) {
    if (*member == "format_version") {
      known_version = reader.SkipValue() == "1";
    } else if (*member == "files") {
      reader.BeginObject();
      while (const auto key = reader.NextMember()) {
        std::string file(*key);
        const std::string_view outside = formats::OutsidePath(file);
        if (!outside.empty()) fail(fmt::format("it lists {}, {}", QuoteForMessage(file), outside));
        HubTreeEntry entry = Interpret(ReadEntry(reader), name);
        if (!tree.emplace(file, std::move(entry)).second) {
          fail(fmt::format("it lists {} twice", QuoteForMessage(file)));
        }
      }
    } else {
      reader.SkipValue();
    }
  }
  reader.End();
  if (!known_version) fail("its format_version is not 1, the only one that this program knows");
  return tree;
}

}  // namespace dsv3::convert
