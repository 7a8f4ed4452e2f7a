#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/catalog/box.h"
#include "formats/rank_layout.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::testing {

inline constexpr char kRankFile0[] = "model-rank-0-part-0.safetensors";
inline constexpr char kRankFile1[] = "model-rank-1-part-0.safetensors";

// A directory of rank shards that a test composes and spoils as it likes: slices are cut element by
// element, and nothing is checked.
struct RankShards {
  formats::RankLayout layout;
  TinyCheckpoint files;  // shards are rank files; no config and no index

  // The table's entry and the bytes in each of `in` (positions in layout.files) of a slice.
  formats::LayoutTensor& Add(const std::string& name, formats::Dtype dtype,
                             const formats::Shape& shape, const std::string& bytes,
                             const std::vector<std::uint32_t>& in,
                             std::vector<formats::LayoutPart> parts,
                             const std::string& rule = "slice");

  // Takes a tensor out of the table and all files.
  void Remove(const std::string& name);

  // Gives layout.files the sizes and digests of the files, and orders layout.tensors.
  void Seal();

  // Writes the files, the side files and layout.json below `directory`.
  void Write(const std::filesystem::path& directory) const;
};

// The bytes of a box of a tensor, row by row.
std::string BytesOfBox(const TinyTensor& tensor, const convert::Box& box);
// What layout.json tells of the same box.
formats::LayoutPart PartOf(const TinyTensor& tensor, const convert::Box& box);

// The ranks of TP 2 without a tensor in them: files, ranks, the original's headers, index, config
// and side files.
RankShards EmptyRanks(const TinyCheckpoint& original);

// A checkpoint cut for TP 2: matrices by rows or by columns at odd places, vectors of four elements
// and more, and all others whole in both files. Sealed.
RankShards CutForTwoRanks(const TinyCheckpoint& original);

// Two matrices and a vector in one file without an index: "gate", "norm" and "up".
TinyCheckpoint PlainCheckpoint();

// Adds the tensors of `original` that `names` does not hold, whole, to both files.
void AddOthersWhole(const TinyCheckpoint& original, const std::vector<std::string>& names,
                    RankShards& ranks);

}  // namespace dsv3::testing
