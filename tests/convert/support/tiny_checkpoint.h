#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::testing {

struct TinyTensor {
  std::string shard;  // file name; the shard exists because a tensor names it
  std::string name;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::string bytes;
};

// A checkpoint of a few KB that a test composes and spoils as it likes: nothing here is checked, so
// that every wrong combination can be written too.
struct TinyCheckpoint {
  // In any order; within a shard they are laid out as the reference writer does. References stay
  // valid while tensors are added.
  std::deque<TinyTensor> tensors;
  // config.json; none when empty.
  std::string config;
  // Whether the index over all tensors is written.
  bool has_index = true;
  // Takes the place of the index that the tensors give.
  std::optional<std::string> index_text;
  // Relative name → content.
  std::map<std::string, std::string> side_files;

  // Adds a tensor of random bytes that depend on its name alone.
  TinyTensor& Add(const std::string& shard, const std::string& name, formats::Dtype dtype,
                  const formats::Shape& shape);
  // Adds a tensor of positive finite scales, in F32, BF16, F16, F8_E8M0 or E8M0 as
  // U8.
  TinyTensor& AddScale(const std::string& shard, const std::string& name, formats::Dtype dtype,
                       const formats::Shape& shape);

  // The tensor of this name; throws std::out_of_range.
  TinyTensor& Find(const std::string& name);

  // Takes out the tensors of this name, of all shards; throws std::out_of_range when there is none.
  void Drop(const std::string& name);
  // Takes out the tensors whose names contain `part`. Returns how many there were.
  std::size_t DropContaining(const std::string& part);

  // The bytes of one shard: header and data.
  std::string ShardBytes(const std::string& shard) const;
  // The text of the index over all tensors (or index_text).
  std::string IndexText() const;

  // Writes all files below `directory`, which is made if it is missing.
  void Write(const std::filesystem::path& directory) const;
};

inline constexpr char kTinyShard1[] = "model-00001-of-00004.safetensors";
inline constexpr char kTinyShard2[] = "model-00002-of-00004.safetensors";
inline constexpr char kTinyShard3[] = "model-00003-of-00004.safetensors";
inline constexpr char kTinyShard4[] = "model-00004-of-00004.safetensors";

// config.json of a model_type that no table knows, with scale blocks of 4 × 8.
std::string TinyConfig();

// A whole FP8 checkpoint in four shards whose model_type is unknown, so that no tensor is expected
// or missing: five FP8 weights of ragged shapes with F32, BF16 and E8M0 scales, NaN codes, scales
// in other shards than their weights (shard 4 holds nothing else, and makes no output file),
// tensors of other types, a scalar, an empty tensor, and side files (one in a subdirectory).
TinyCheckpoint SmallFp8Checkpoint();

}  // namespace dsv3::testing
