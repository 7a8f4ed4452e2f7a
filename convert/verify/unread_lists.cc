#include "convert/verify/unread_lists.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "convert/packing/packed_manifest.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"
#include "formats/sums_file.h"

namespace dsv3::convert {

namespace {

constexpr std::uint64_t kLongestList = std::uint64_t{1} << 20;
constexpr std::size_t kDigits = 64;  // of a SHA-256

bool IsHex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool HoldsDigest(std::string_view line) {
  std::size_t run = 0;
  for (const char c : line) {
    if (IsHex(c)) {
      ++run;
    } else {
      if (run == kDigits) return true;
      run = 0;
    }
  }
  return run == kDigits;
}

// Whether the file says a digest of another one of the listing on one line with its name.
bool SaysDigests(const DirectoryFile& file, const std::vector<DirectoryFile>& listing) {
  if (file.kind != DirectoryFile::Kind::kFile || file.bytes > kLongestList) return false;
  const std::string base = std::filesystem::path(file.name).filename().string();
  // Of this toolkit, and of its own shards.
  if (base == formats::kRankLayoutName || base == kPackedManifestName ||
      base.ends_with(formats::kGgufManifestSuffix)) {
    return false;
  }
  std::string text;
  try {
    text = formats::ReadSmallFile(file.path, kLongestList);
  } catch (const Error&) {
    return false;
  }
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!HoldsDigest(line)) continue;
    const bool names_one =
        std::any_of(listing.begin(), listing.end(), [&](const DirectoryFile& other) {
          return other.name != file.name && line.find(other.name) != std::string_view::npos;
        });
    if (names_one) return true;
  }
  return false;
}

}  // namespace

std::optional<UnreadList> FindUnreadList(const std::vector<DirectoryFile>& listing) {
  for (const DirectoryFile& file : listing) {
    const std::string base = std::filesystem::path(file.name).filename().string();
    const std::string_view kind = formats::OtherDigestOfName(base);
    if (!kind.empty()) return UnreadList{file.name, std::string(kind)};
    if (formats::MayBeSumsName(base) && !formats::IsSumsName(base) &&
        !formats::IsSumsSignatureName(base)) {
      return UnreadList{file.name, ""};
    }
  }
  for (const DirectoryFile& file : listing) {
    if (SaysDigests(file, listing)) return UnreadList{file.name, ""};
  }
  return std::nullopt;
}

void WarnOfUnreadList(const std::vector<DirectoryFile>& listing, formats::Findings& findings) {
  const std::optional<UnreadList> list = FindUnreadList(listing);
  if (!list) return;
  findings.push_back(
      {.severity = formats::Severity::kWarning,
       .kind = "unread-sums",
       .file = list->name,
       .tensor = {},
       .message = fmt::format("{}: it may be the publisher's list of {} digests, which is not "
                              "read: compare the files with it, for the new checksums only say "
                              "what is there now",
                              formats::ShownPath(list->name),
                              list->kind.empty() ? std::string_view("SHA-256") : list->kind),
       .unreadable = false});
}

}  // namespace dsv3::convert
