#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/finding.h"

// model.safetensors.index.json, the map from tensor names to shard files.
namespace dsv3::formats {

inline constexpr std::string_view kShardIndexName = "model.safetensors.index.json";

struct ShardIndex {
  std::vector<std::string> files;  // distinct shard names, sorted
  // (tensor name, position in `files`), sorted by name. The names lie in `text`, or the caller that
  // composed the index holds them.
  std::vector<std::pair<std::string_view, std::uint32_t>> weight_map;
  std::optional<std::uint64_t> total_size;  // metadata.total_size, bytes of tensor data

  // The text that a parsed index keeps alive: its JSON, and the names that had escapes in it.
  struct Text {
    std::string json;
    std::deque<std::string> unescaped;
  };
  std::shared_ptr<const Text> text;

  // Position in `files` of the shard that is listed for a tensor; nothing when it is not listed.
  std::optional<std::uint32_t> FindShard(std::string_view tensor) const;
};

// Parses an index. Rejects: not a JSON object, no weight_map object, an empty weight_map, a tensor
// listed twice, a value that is not a string, a shard path that is empty, absolute, has a drive
// letter, a backslash, a control character, a component that is "..", "." or empty, or one longer
// than a file name can be, and whatever is not strict UTF-8 JSON. A git-lfs pointer or a web page
// is called by its name. A total_size that is not a non-negative integer is treated as absent
// (transformers writes a float there at times: an integral float is taken by its value). `file` is
// the name for errors. Throws Error (kBadInput).
//
// With `faults`, faults of single entries are added there and the rest is read: a tensor listed
// twice (tensor-listed-twice; one of the entries stays), a shard path as above (unsafe-shard-path,
// once for each path) or one that is not a string (malformed-index-entry), both left out, and a
// total_size that is not a size (wrong-total-size). weight_map may be empty then.
ShardIndex ParseShardIndex(std::string text, const std::string& file, Findings* faults = nullptr);

// Throws the Error (kBadInput) for an index with an empty weight_map.
[[noreturn]] void FailEmptyIndex(const std::string& file);

// The index in the form that transformers writes: indent 2, sorted keys, a final newline;
// metadata.total_size is the only metadata. `weight_map` must be sorted by name.
std::string SerializeShardIndex(const ShardIndex& index);

}  // namespace dsv3::formats
