#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/open/open_model.h"
#include "convert/plan/expression.h"
#include "convert/stream/source_files.h"

// How the ranks of rank shards share the model, and whether their copies of what several of them
// hold are equal; an internal part of forward.h. Weights are read from the first file that holds
// them, and every other copy of these bytes is compared with them. Thread-safe.
namespace dsv3::convert {

class Ranks {
 public:
  // `model` has ranks, and outlives the object.
  explicit Ranks(const OpenedModel& model);

  const formats::RankLayout::Sizes& sizes() const { return shards_.layout.sizes; }
  const formats::LayoutRank& At(std::uint32_t rank) const { return shards_.layout.ranks[rank]; }

  // All ranks of the pipeline stage that holds a tensor, ascending.
  std::vector<std::uint32_t> RanksOfStage(std::uint32_t tensor) const;

  // The columns where the slices of a tensor end, ascending; one where the ranks do not divide its
  // columns. The products of the slices are added in this order.
  std::vector<std::uint64_t> ColumnEnds(std::uint32_t tensor) const;

  // The boxes of a tensor that the ranks hold, and the first rank of each.
  struct Slice {
    Box box;
    std::uint32_t rank = 0;
  };
  std::vector<Slice> SlicesOf(std::uint32_t tensor) const;
  // The boxes of it that one rank holds.
  std::vector<Box> BoxesOf(std::uint32_t rank, std::uint32_t tensor) const;
  // The file that the first rank with an element of a tensor has it in. `rank`: the file of that
  // rank, if it holds some of the tensor.
  std::string FileOf(std::uint32_t tensor, std::uint64_t row, std::uint64_t col) const;
  std::string FileOf(std::uint32_t rank, std::uint32_t tensor) const;
  // How many ranks hold some of it.
  std::size_t HoldersOf(std::uint32_t tensor) const;

  // Compares the other copies of stored bytes that were read. Bytes that were compared before are
  // not read again.
  void CompareCopies(const SourceRange& stored, std::span<const std::byte> bytes);
  // Ranks whose copies of a tensor differ from those that are read, as far as these were read:
  // the first rank of each copy, ascending.
  std::vector<std::uint32_t> DifferingRanks(std::uint32_t tensor) const;
  // Says that the run uses rows of a tensor which were read.
  void NoteUse(std::uint32_t tensor);
  // All ranks whose copies differ of what was used since the last call, ascending.
  std::vector<std::uint32_t> TakeDiffering();
  // Whether a copy of a rank was found that differs.
  bool HasDiffering(std::uint32_t rank) const;
  // Of a copy of the tensor that differs on `rank`: whether layout.json has the digest of the
  // rank's copy, and not that of the one that is read.
  bool IsRight(std::uint32_t rank, std::uint32_t tensor);

  // How the tensors of the model are made for one rank: of its own copies, and of those of its
  // data parallel group where it has none.
  std::vector<ExpressionPtr> OriginsFor(std::uint32_t rank) const;

  std::uint64_t bytes_read() const { return copies_.bytes_read(); }

 private:
  using Copy = RankShards::Copy;

  const std::vector<std::uint32_t>& RanksOf(std::uint32_t stored) const {
    return ranks_of_file_[shards_.stored.tensors()[stored].extent.file];
  }
  const std::string& NameOfFile(std::uint32_t stored) const {
    return shards_.stored.files()[shards_.stored.tensors()[stored].extent.file].name;
  }
  bool Holds(std::uint32_t rank, std::uint32_t stored) const;
  // The copies of a stored tensor that is read; none for other tensors.
  std::span<const Copy> CopiesOf(std::uint32_t stored) const;
  // The copy that a rank uses of bytes of `stored`; nullptr for that itself.
  const Copy* ChooseFor(std::uint32_t rank, std::uint32_t stored, std::uint64_t begin) const;
  std::string DigestOf(std::uint32_t stored);

  const RankShards& shards_;
  std::vector<std::vector<std::uint32_t>> ranks_of_file_;  // ascending
  SourceFiles copies_;
  mutable std::mutex mutex_;
  std::set<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> compared_;
  std::unordered_map<std::uint32_t, std::set<std::uint32_t>> differing_;  // copies, by what is read
  std::set<std::uint32_t> taken_;  // by the next TakeDiffering
  std::set<std::uint32_t> ranks_that_differ_;
};

}  // namespace dsv3::convert
