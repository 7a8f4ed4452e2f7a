#include "formats/dcp_safetensors.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"
#include "formats/name_table.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kListKey = "DCP_SHARDING_INFO";
constexpr std::string_view kVersionKey = "DCP_VERSION";
constexpr std::string_view kVersion = "1.0";
constexpr std::string_view kOffsetsKey = "saved_offsets";
constexpr std::string_view kDamaged = "the file is damaged, copy it again or save it again";

[[noreturn]] void Fail(const std::string& file, const std::string& tensor, std::string_view problem,
                       std::string_view advice = kDamaged) {
  const std::string where =
      tensor.empty() ? "" : fmt::format("tensor {}: ", QuoteForMessage(tensor));
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}{}; {}", ShownPath(file), where, problem, advice),
              {.file = file, .tensor = tensor});
}

const std::string* Find(const SafetensorsMetadata& metadata, std::string_view key) {
  const auto found = std::find_if(metadata.begin(), metadata.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  return found == metadata.end() ? nullptr : &found->second;
}

// Takes `literal` from the front of `text`.
bool TakeLiteral(std::string_view& text, std::string_view literal) {
  if (!text.starts_with(literal)) return false;
  text.remove_prefix(literal.size());
  return true;
}

// Takes a number of 5 to 9 digits, with zeros in front where 5 are too many.
std::optional<std::uint32_t> TakeNumber(std::string_view& text) {
  constexpr std::size_t kFewest = 5;
  constexpr std::size_t kMost = 9;
  std::size_t digits = 0;
  std::uint32_t value = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') {
    if (digits == kMost) return std::nullopt;
    value = 10 * value + static_cast<std::uint32_t>(text[digits++] - '0');
  }
  if (digits < kFewest || (digits > kFewest && text[0] == '0')) return std::nullopt;
  text.remove_prefix(digits);
  return value;
}

// Reads {NAME: {"saved_offsets": [...]}}.
class ListReader {
 public:
  ListReader(std::string_view text, const SafetensorsHeader& header, const std::string& file)
      : header_(header),
        file_(file),
        reader_(text, {.file = file, .part = kListKey, .advice = kDamaged}),
        names_(header.tensors.size()) {
    for (std::uint32_t i = 0; i < header.tensors.size(); ++i) {
      const std::string& name = header.tensors[i].name;
      names_.Add(i, HashName(name), [&](std::uint32_t k) { return NameAt(k); });
    }
  }

  std::vector<Shape> Read() {
    std::vector<Shape> offsets(header_.tensors.size());
    std::vector<bool> seen(header_.tensors.size());
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      const std::uint32_t tensor = names_.Find(*key, [&](std::uint32_t k) { return NameAt(k); });
      if (tensor == NameTable::kNone) {
        reader_.SkipValue();
        continue;
      }
      const std::string& name = header_.tensors[tensor].name;
      if (seen[tensor]) Fail(file_, name, fmt::format("{} lists it twice", kListKey));
      seen[tensor] = true;
      reader_.SetTensor(&name);
      offsets[tensor] = ReadOffsets(header_.tensors[tensor]);
      reader_.SetTensor(nullptr);
    }
    reader_.End();
    for (std::size_t i = 0; i < seen.size(); ++i) {
      if (seen[i]) continue;
      Fail(file_, header_.tensors[i].name,
           fmt::format("{} does not say which part of it the file holds", kListKey));
    }
    return offsets;
  }

 private:
  std::string_view NameAt(std::uint32_t tensor) const { return header_.tensors[tensor].name; }

  Shape ReadOffsets(const SafetensorsTensor& tensor) {
    std::optional<Shape> offsets;
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      if (*key != kOffsetsKey) {
        reader_.SkipValue();
        continue;
      }
      if (offsets) Fail(file_, tensor.name, fmt::format("it has {} twice", kOffsetsKey));
      offsets.emplace();
      reader_.BeginArray();
      while (reader_.NextElement()) offsets->push_back(reader_.Uint());
    }
    if (!offsets) Fail(file_, tensor.name, fmt::format("it has no {}", kOffsetsKey));
    Check(tensor, *offsets);
    return *std::move(offsets);
  }

  void Check(const SafetensorsTensor& tensor, const Shape& offsets) const {
    bool fits = offsets.size() == tensor.shape.size();
    for (std::size_t i = 0; fits && i < offsets.size(); ++i) {
      std::uint64_t end = 0;
      fits = !__builtin_add_overflow(offsets[i], tensor.shape[i], &end);
    }
    if (fits) return;
    Fail(file_, tensor.name,
         fmt::format("its shape is {}, which does not fit its {} {}", ShapeToString(tensor.shape),
                     kOffsetsKey, ShapeToString(offsets)));
  }

  const SafetensorsHeader& header_;
  const std::string& file_;
  JsonReader reader_;
  NameTable names_;
};

}  // namespace

std::optional<DcpShardName> ParseDcpShardName(std::string_view name) {
  DcpShardName parsed;
  const auto number = [&](std::string_view before, std::uint32_t& value) {
    if (!TakeLiteral(name, before)) return false;
    const std::optional<std::uint32_t> taken = TakeNumber(name);
    value = taken.value_or(0);
    return value != 0;
  };
  if (!number("shard-", parsed.shard) || !number("-model-", parsed.file) ||
      !number("-of-", parsed.num_files) || name != ".safetensors" ||
      parsed.file > parsed.num_files) {
    return std::nullopt;
  }
  return parsed;
}

bool IsDcpShard(const SafetensorsHeader& header) {
  return Find(header.metadata, kListKey) != nullptr;
}

std::vector<Shape> ReadDcpOffsets(const SafetensorsHeader& header, const std::string& file) {
  const std::string* list = Find(header.metadata, kListKey);
  if (list == nullptr) {
    Fail(file, "",
         fmt::format("its __metadata__ has no {}, so its tensors are no parts of others", kListKey),
         "give a directory that was written with save_distributed");
  }
  if (const std::string* version = Find(header.metadata, kVersionKey);
      version == nullptr || *version != kVersion) {
    Fail(file, "",
         fmt::format("its {} is {}, expected {}", kVersionKey,
                     version == nullptr ? "missing" : QuoteForMessage(*version),
                     QuoteForMessage(kVersion)),
         "the file was made by another version of PyTorch: save it again with a known one");
  }
  return ListReader(*list, header, file).Read();
}

}  // namespace dsv3::formats
