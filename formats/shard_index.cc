#include "formats/shard_index.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <functional>
#include <numeric>
#include <system_error>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/json/json_reader.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"
#include "formats/relative_name.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kDamaged = "the index is damaged, download it again";

[[noreturn]] void Fail(const std::string& file, const std::string& tensor,
                       const std::string& message) {
  throw Error(ErrorCode::kBadInput, ShownPath(file) + ": " + message,
              {.file = file, .tensor = tensor});
}

class IndexReader {
 public:
  // `text` is kept by the index that Read returns. See ParseShardIndex about `faults`.
  IndexReader(std::shared_ptr<ShardIndex::Text> text, const std::string& file, Findings* faults)
      : file_(file),
        faults_(faults),
        text_(std::move(text)),
        reader_(text_->json, {.file = file, .part = "the index", .advice = kDamaged}) {
    constexpr std::size_t kTypicalEntryBytes = 90;
    index_.weight_map.reserve(text_->json.size() / kTypicalEntryBytes);
  }

  ShardIndex Read() {
    bool map_seen = false;
    bool metadata_seen = false;
    const auto once = [&](bool& seen, std::string_view member) {
      if (seen) Fail(file_, "", fmt::format("{} appears twice; {}", member, kDamaged));
      seen = true;
    };
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      if (*key == "weight_map") {
        once(map_seen, "weight_map");
        ReadWeightMap();
      } else if (*key == "metadata") {
        once(metadata_seen, "metadata");
        ReadMetadata();
      } else {
        reader_.SkipValue();
      }
    }
    reader_.End();
    if (!map_seen) {
      Fail(file_, "", fmt::format("there is no weight_map, so it names no shards; {}", kDamaged));
    }
    if (index_.weight_map.empty() && faults_ == nullptr) FailEmptyIndex(file_);
    SortFiles();
    SortTensors();
    index_.text = std::move(text_);
    return std::move(index_);
  }

 private:
  // Throws the fault of an entry, or reports it.
  void Fault(std::string_view kind, std::string_view tensor, const std::string& problem) {
    if (faults_ == nullptr) Fail(file_, std::string(tensor), problem);
    faults_->push_back({.severity = Severity::kError,
                        .kind = std::string(kind),
                        .file = file_,
                        .tensor = std::string(tensor),
                        .message = fmt::format("{}: {}", ShownPath(file_), problem),
                        .unreadable = false});
  }

  void ReadMetadata() {
    if (reader_.Peek() != JsonType::kObject) {
      reader_.SkipValue();
      return;
    }
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      const bool is_total = *key == "total_size";
      const std::string_view value = reader_.SkipValue();
      if (!is_total) continue;
      index_.total_size = TotalSize(value);
      if (faults_ != nullptr && !index_.total_size && value != "null") {
        Fault("wrong-total-size", "",
              fmt::format("metadata.total_size is {}, expected a number of bytes; write the sum of "
                          "the tensors' bytes there, or leave it out",
                          QuoteForMessage(value)));
      }
    }
  }

  // The value of a non-negative whole number below 2^64, also one written as a float.
  static std::optional<std::uint64_t> TotalSize(std::string_view text) {
    const char* const end = text.data() + text.size();
    std::uint64_t whole = 0;
    const auto parsed = std::from_chars(text.data(), end, whole);
    if (parsed.ec == std::errc() && parsed.ptr == end) return whole;
    double value = 0;
    const auto as_float = std::from_chars(text.data(), end, value);
    constexpr double kTwoTo64 = 18446744073709551616.0;
    if (as_float.ec != std::errc() || as_float.ptr != end) return std::nullopt;
    if (!(value >= 0) || value >= kTwoTo64) return std::nullopt;
    whole = static_cast<std::uint64_t>(value);
    if (static_cast<double>(whole) != value) return std::nullopt;
    return whole;
  }

  void ReadWeightMap() {
    reader_.BeginObject();
    while (const std::optional<std::string_view> key = reader_.NextMember()) {
      const std::string_view name = Kept(*key);
      tensor_.assign(name);
      reader_.SetTensor(&tensor_);
      if (faults_ != nullptr && reader_.Peek() != JsonType::kString) {
        Fault(
            "malformed-index-entry", tensor_,
            fmt::format("tensor {} has {} in place of a shard's name; {}", QuoteForMessage(tensor_),
                        QuoteForMessage(reader_.SkipValue()), kDamaged));
      } else if (const std::optional<std::uint32_t> number = FileNumber(reader_.String())) {
        index_.weight_map.emplace_back(name, *number);
      }
      reader_.SetTensor(nullptr);
    }
  }

  // A view of the reader that outlives the next read.
  std::string_view Kept(std::string_view view) {
    const std::string& json = text_->json;
    const std::less_equal<const char*> not_after;
    const bool in_text = not_after(json.data(), view.data()) &&
                         not_after(view.data() + view.size(), json.data() + json.size());
    return in_text ? view : text_->unescaped.emplace_back(view);
  }

  // The number of the shard of the tensor that is being read; nothing when its path is unsafe.
  std::optional<std::uint32_t> FileNumber(std::string_view shard) {
    // Neighbours are mostly in the same file.
    if (last_ != nullptr && *last_ == shard) return last_number_;
    const auto [entry, is_new] = numbers_.try_emplace(std::string(shard));
    if (is_new) {
      const std::string_view unsafe = UnsafePath(shard);
      if (unsafe.empty()) {
        entry->second = static_cast<std::uint32_t>(index_.files.size());
        index_.files.push_back(entry->first);
      } else {
        Fault("unsafe-shard-path", tensor_,
              fmt::format("tensor {} is said to be in {}, {}; a shard must lie within the "
                          "checkpoint's directory, correct the index or download it again",
                          QuoteForMessage(tensor_), QuoteForMessage(shard), unsafe));
      }
    }
    last_ = &entry->first;
    last_number_ = entry->second;
    return last_number_;
  }

  void SortFiles() {
    std::vector<std::uint32_t> order(index_.files.size());
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(),
              [&](std::uint32_t a, std::uint32_t b) { return index_.files[a] < index_.files[b]; });
    std::vector<std::string> sorted;
    std::vector<std::uint32_t> new_number(order.size());
    sorted.reserve(order.size());
    for (const std::uint32_t old : order) {
      new_number[old] = static_cast<std::uint32_t>(sorted.size());
      sorted.push_back(std::move(index_.files[old]));
    }
    index_.files = std::move(sorted);
    for (auto& [name, shard] : index_.weight_map) shard = new_number[shard];
  }

  void SortTensors() {
    auto& map = index_.weight_map;
    const auto by_name = [](const auto& a, const auto& b) { return a.first < b.first; };
    if (!std::is_sorted(map.begin(), map.end(), by_name)) {
      std::sort(map.begin(), map.end(), by_name);
    }
    const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
    auto twice = std::adjacent_find(map.begin(), map.end(), same_name);
    if (twice == map.end()) return;
    for (; twice != map.end(); twice = std::adjacent_find(twice + 1, map.end(), same_name)) {
      Fault("tensor-listed-twice", twice->first,
            fmt::format("tensor {} is listed twice, in {} and in {}; {}",
                        QuoteForMessage(twice->first), QuoteForMessage(index_.files[twice->second]),
                        QuoteForMessage(index_.files[(twice + 1)->second]), kDamaged));
    }
    map.erase(std::unique(map.begin(), map.end(), same_name), map.end());
  }

  const std::string& file_;
  Findings* faults_;
  std::shared_ptr<ShardIndex::Text> text_;
  JsonReader reader_;
  std::string tensor_;  // whose shard is being read
  ShardIndex index_;
  // Position in index_.files; nothing for an unsafe path.
  std::unordered_map<std::string, std::optional<std::uint32_t>> numbers_;
  const std::string* last_ = nullptr;  // the shard asked for last
  std::optional<std::uint32_t> last_number_;
};

}  // namespace

std::optional<std::uint32_t> ShardIndex::FindShard(std::string_view tensor) const {
  const auto entry =
      std::lower_bound(weight_map.begin(), weight_map.end(), tensor,
                       [](const auto& e, std::string_view name) { return e.first < name; });
  if (entry == weight_map.end() || entry->first != tensor) return std::nullopt;
  return entry->second;
}

void FailEmptyIndex(const std::string& file) {
  Fail(file, "",
       fmt::format("weight_map is empty, so no shard belongs to the checkpoint; {}", kDamaged));
}

ShardIndex ParseShardIndex(std::string text, const std::string& file, Findings* faults) {
  const std::string_view foreign = DescribeForeignFile(text);
  if (!foreign.empty()) Fail(file, "", std::string(foreign));
  auto kept = std::make_shared<ShardIndex::Text>();
  kept->json = std::move(text);
  return IndexReader(std::move(kept), file, faults).Read();
}

std::string SerializeShardIndex(const ShardIndex& index) {
  JsonWriter json(2, JsonWriter::Charset::kAscii);
  json.BeginObject();
  json.BeginObject("metadata");
  if (index.total_size) {
    json.Uint("total_size", *index.total_size);
  }
  json.EndObject();
  json.BeginObject("weight_map");
  for (const auto& [name, shard] : index.weight_map) {
    json.String(name, index.files[shard]);
  }
  json.EndObject();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::formats
