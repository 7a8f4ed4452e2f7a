#include "formats/gguf_files.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".gguf";
constexpr std::string_view kOf = "-of-";
constexpr std::size_t kDigits = 5;

[[noreturn]] void Fail(const std::string& file, const std::string& problem,
                       const std::string& tensor = {}) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", ShownPath(file), problem),
              {file, tensor});
}

std::optional<std::uint64_t> NumberOf(std::string_view digits) {
  std::uint64_t number = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return number;
}

GgufFile OpenFile(const fs::path& path) {
  GgufFile file;
  file.name = path.filename().string();
  file.path = path;
  const InputFile input(path, file.name);
  file.mtime_ns = input.mtime_ns();
  file.header = ReadGgufHeader(input);
  return file;
}

// Throws for a file that is not split `number` (from 1) of `count`.
void RequireSplit(const GgufFile& file, std::uint64_t number, std::uint64_t count) {
  const GgufKeys& keys = file.header.keys;
  const auto its_number = GgufNumber(keys, kGgufSplitNumberKey);
  const auto its_count = GgufNumber(keys, kGgufSplitCountKey);
  if (its_number == number - 1 && its_count == count) return;
  const auto shown = [](const std::optional<std::uint64_t>& value) {
    return value ? fmt::format("{}", *value) : "nothing";
  };
  Fail(file.name, fmt::format("its keys {} and {} say {} and {}, and split {} of {} has {} and {}; "
                              "the file was renamed, or is of another model",
                              kGgufSplitNumberKey, kGgufSplitCountKey, shown(its_number),
                              shown(its_count), number, count, number - 1, count));
}

void RequireOneModel(const std::vector<GgufFile>& files) {
  std::unordered_map<std::string_view, const GgufFile*> holders;
  std::uint64_t tensors = 0;
  for (const GgufFile& file : files) {
    tensors += file.header.tensors.size();
    for (const GgufTensor& tensor : file.header.tensors) {
      const auto [holder, added] = holders.emplace(tensor.name, &file);
      if (added) continue;
      Fail(file.name,
           fmt::format("tensor {} is in {}, too; the splits are not of one model",
                       QuoteForMessage(tensor.name), ShownPath(holder->second->name)),
           tensor.name);
    }
  }
  const auto expected = GgufNumber(files.front().header.keys, kGgufSplitTensorsKey);
  if (!expected || *expected == tensors) return;
  Fail(files.front().name, fmt::format("{} says that the splits hold {} tensors together, and they "
                                       "hold {}; they are not of one model",
                                       kGgufSplitTensorsKey, *expected, tensors));
}

}  // namespace

std::optional<GgufSplitName> ParseGgufSplitName(std::string_view file_name) {
  constexpr std::size_t kTail = 1 + kDigits + kOf.size() + kDigits;  // "-00002-of-00003"
  if (!file_name.ends_with(kSuffix)) return std::nullopt;
  file_name.remove_suffix(kSuffix.size());
  if (file_name.size() < kTail) return std::nullopt;
  const std::string_view tail = file_name.substr(file_name.size() - kTail);
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  const auto number = NumberOf(tail.substr(1, kDigits));
  const auto count = NumberOf(tail.substr(kTail - kDigits));
  if (!number || !count || *number == 0 || *number > *count) return std::nullopt;
  file_name.remove_suffix(kTail);
  return GgufSplitName{std::string(file_name), *number, *count};
}

std::string GgufSplitFileName(const GgufSplitName& split) {
  return fmt::format("{}-{:05}-of-{:05}{}", split.base, split.number, split.count, kSuffix);
}

std::string GgufManifestName(std::string_view file_name) {
  const std::optional<GgufSplitName> split = ParseGgufSplitName(file_name);
  std::string base = split ? split->base : std::string(file_name);
  if (!split && base.ends_with(kSuffix)) base.resize(base.size() - kSuffix.size());
  return base.append(kGgufManifestSuffix);
}

std::optional<std::uint64_t> GgufNumber(const GgufKeys& keys, std::string_view key) {
  const GgufValue* const value = FindGgufKey(keys, key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [](const auto& number) -> std::optional<std::uint64_t> {
        using T = std::decay_t<decltype(number)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if constexpr (std::is_signed_v<T>) {
            if (number < 0) return std::nullopt;
          }
          return static_cast<std::uint64_t>(number);
        } else {
          return std::nullopt;
        }
      },
      *value);
}

bool IsGgufFile(const fs::path& path) {
  constexpr std::string_view kMagic = "GGUF";
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  if (path.filename().string().ends_with(kSuffix)) return true;
  // Whoever opens a file that cannot be read says so.
  std::array<char, kMagic.size()> start{};
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  return file && std::string_view(start.data(), start.size()) == kMagic;
}

std::vector<GgufFile> OpenGgufFiles(const fs::path& path) {
  std::vector<GgufFile> files;
  files.push_back(OpenFile(fs::absolute(path)));
  const GgufFile& named = files.front();
  const std::uint64_t count = GgufNumber(named.header.keys, kGgufSplitCountKey).value_or(1);
  if (count <= 1) return files;
  const std::optional<GgufSplitName> split = ParseGgufSplitName(named.name);
  if (!split) {
    Fail(named.name,
         fmt::format("it is one of {} splits of a model, and its name does not say which; name "
                     "them as gguf-split does: NAME-00001-of-{:05}.gguf",
                     count, count));
  }
  RequireSplit(named, split->number, split->count);
  std::vector<GgufFile> splits;
  GgufSplitName each = *split;
  for (each.number = 1; each.number <= each.count; ++each.number) {
    if (each.number == split->number) {
      splits.push_back(std::move(files.front()));
      continue;
    }
    const fs::path beside = fs::absolute(path).parent_path() / GgufSplitFileName(each);
    if (!Exists(beside)) {
      Fail(beside.filename().string(),
           fmt::format("this split is missing, and the model is in {} files; put it beside {}",
                       each.count, ShownPath(path.filename())));
    }
    splits.push_back(OpenFile(beside));
    RequireSplit(splits.back(), each.number, each.count);
  }
  RequireOneModel(splits);
  return splits;
}

}  // namespace dsv3::formats
