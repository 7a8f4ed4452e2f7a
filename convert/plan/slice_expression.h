#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// A box of a value. `origin` makes the whole value; its bytes are row-major.
struct SlicePart {
  ExpressionPtr origin;
  // Of MatrixOf(origin->shape()); empty where nothing but zeros follows, or the value is empty.
  Box box;
};

// The part of one or several tensors that a rank holds: boxes of their values one behind the other,
// then zeros. Rule "slice". Several tensors may cut the same origin: an executor that reads for
// many files at once makes the origin's rows once and gives each slice its part
// (ExecuteSharedReads).
//
// Evaluated by itself, a box of whole rows takes its bytes of the origin alone and may be cut where
// the origin may; any other box takes whole rows, counts what the origin counts in them, and may be
// cut between rows. Zeros may be cut at any byte.
class SliceExpression final : public Expression {
 public:
  // Origins have `dtype`, whose elements are whole bytes, and no by-products; the parts' bytes fill
  // the shape but for its end, which is zero (Error kInternal otherwise). A tensor that is all zero
  // may have no parts, or one whose box is empty.
  SliceExpression(formats::Dtype dtype, formats::Shape shape, std::vector<SlicePart> parts);

  const std::vector<SlicePart>& parts() const { return parts_; }
  std::uint64_t zero_bytes() const { return zero_bytes_; }  // at the end
  // Whether it is a whole source tensor as it is.
  bool IsWholeCopy() const;

  std::string_view rule() const override { return "slice"; }
  // The boxes; origins are part of the job by themselves.
  std::string parameters() const override;
  std::vector<std::uint32_t> streamed_sources() const override;
  bool streams_whole_source() const override { return false; }
  std::vector<std::uint32_t> side_sources() const override;
  std::uint64_t CutAtOrBefore(std::uint64_t position) const override;
  std::uint64_t CutAfter(std::uint64_t position) const override;
  std::uint64_t LongestPiece() const override { return longest_piece_; }
  std::uint64_t input_bytes_per_output_byte() const override;
  std::optional<SourceRange> AsStored(std::uint64_t begin, std::uint64_t end) const override;
  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override;
  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override;
  const SliceExpression* slice() const override { return this; }

 private:
  // Bytes of a part that lie in a range of the value, and the origin's bytes that make them.
  struct Piece {
    const SlicePart* part = nullptr;
    ByteRange value;
    ByteRange origin;          // what is evaluated; begins and ends where the origin may be cut
    std::uint64_t offset = 0;  // of the piece's first byte in what is evaluated
  };

  bool WholeRows(const SlicePart& part) const;
  std::uint64_t PartBytes(const SlicePart& part) const;
  std::uint64_t OriginRowBytes(const SlicePart& part) const;
  // The part that has the byte, which is not behind the last part, and where it begins.
  std::pair<const SlicePart*, std::uint64_t> PartAt(std::uint64_t position) const;
  Piece PieceOf(const SlicePart& part, std::uint64_t part_begin, ByteRange range) const;
  template <typename Function>
  void ForEachPiece(std::uint64_t begin, std::uint64_t end, Function&& function) const;

  std::vector<SlicePart> parts_;
  std::uint64_t element_bytes_;
  std::uint64_t zero_bytes_ = 0;
  std::uint64_t longest_piece_ = 0;
};

}  // namespace dsv3::convert
