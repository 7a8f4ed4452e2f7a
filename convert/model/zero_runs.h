#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// Long runs of zero bytes within a weight matrix, as a download with holes leaves them where only a
// part of the matrix never came.
namespace dsv3::convert {

// Bytes [begin, end) of a tensor that are all zero.
struct ZeroRun {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  friend bool operator==(const ZeroRun&, const ZeroRun&) = default;
};

// The bytes of the shortest run that says something: a page of a file. Of types with one byte a
// value it is half a page, which a page of 16-bit values becomes when they are quantised, and a
// quarter of one of I32, which holds eight codes of 4 bits in each element.
std::uint64_t LeastZeroRun(formats::Dtype dtype);

// The runs of a tensor whose bytes come in pieces.
class ZeroRuns {
 public:
  ZeroRuns() = default;
  // Runs of fewer than `least` bytes do not count.
  explicit ZeroRuns(std::uint64_t least) : least_(least) {}

  // A piece of the tensor that begins at byte `first`. Pieces come in any order, each byte once.
  void Add(std::uint64_t first, std::span<const std::byte> bytes);
  // The runs of other pieces of the same tensor.
  void Add(const ZeroRuns& pieces);

  // The runs of all pieces together, in order.
  std::vector<ZeroRun> Find() const;

 private:
  std::uint64_t least_ = 0;
  // Long ones, and those at the borders of pieces, which may go on in the next piece.
  std::vector<ZeroRun> runs_;
};

// Whether a tensor has a row for each token, by its name in any layout.
bool IsVocabulary(std::string_view name);

// What a run in a weight matrix is.
enum class ZeroRunKind {
  kPadding,  // rows of a vocabulary that no token has: nothing is wrong
  kRows,     // whole rows, or a whole expert of several: may be padding, or may have been pruned
  kHole,     // no trained matrix has it
};

// Judges a run by its place. Whole rows may be real where they are padding (at the end of the
// matrix, or of each half of a gate_up_proj, and no more than half of the rows), a single row, or
// whole matrices of 3-D experts. Of a vocabulary less than a sixteenth of the rows is padding at
// the end and may be real elsewhere; more, as the slice of a rank has, may be real at the end
// alone, and so may fewer rows that are just the slices of some of 32 ranks or more. Everything
// else is a hole: a file is written in pieces that do not end where rows do.
ZeroRunKind KindOfZeroRun(std::string_view name, formats::Dtype dtype, const formats::Shape& shape,
                          const ZeroRun& run);

}  // namespace dsv3::convert
