#include "convert/plan/slice_expression.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// Each value once, where it comes first.
void AddNew(const std::vector<std::uint32_t>& values, std::vector<std::uint32_t>& to) {
  for (const std::uint32_t value : values) {
    if (std::find(to.begin(), to.end(), value) == to.end()) to.push_back(value);
  }
}

[[noreturn]] void Fail(const char* what) {
  throw Error(ErrorCode::kInternal, fmt::format("a slice was planned {}", what));
}

}  // namespace

SliceExpression::SliceExpression(formats::Dtype dtype, formats::Shape shape,
                                 std::vector<SlicePart> parts)
    : Expression(dtype, std::move(shape)),
      parts_(std::move(parts)),
      element_bytes_(formats::DtypeBits(dtype) / 8) {
  if (formats::DtypeBits(dtype) % 8 != 0) Fail("of elements that are not whole bytes");
  std::uint64_t bytes = 0;
  for (const SlicePart& part : parts_) {
    const Expression& origin = *part.origin;
    if (origin.dtype() != dtype) Fail("of another dtype");
    if (origin.by_product() != nullptr || origin.maker() != nullptr) Fail("of a by-product");
    if (Intersect(part.box, Whole(MatrixOf(origin.shape()))) != part.box) {
      Fail("outside its origin");
    }
    if (part.box.empty()) continue;
    bytes += PartBytes(part);
    if (bytes > num_bytes()) Fail("that is smaller than its parts");
    longest_piece_ =
        std::max(longest_piece_, WholeRows(part) ? std::min(origin.LongestPiece(), PartBytes(part))
                                                 : part.box.cols() * element_bytes_);
  }
  zero_bytes_ = num_bytes() - bytes;
  if (zero_bytes_ != 0) longest_piece_ = std::max<std::uint64_t>(longest_piece_, 1);
}

bool SliceExpression::IsWholeCopy() const {
  return parts_.size() == 1 && zero_bytes_ == 0 && parts_[0].origin->rule() == "copy" &&
         parts_[0].box == Whole(MatrixOf(parts_[0].origin->shape()));
}

bool SliceExpression::WholeRows(const SlicePart& part) const {
  return part.box.cols() == MatrixOf(part.origin->shape()).cols;
}

std::uint64_t SliceExpression::PartBytes(const SlicePart& part) const {
  return part.box.elements() * element_bytes_;
}

std::uint64_t SliceExpression::OriginRowBytes(const SlicePart& part) const {
  return MatrixOf(part.origin->shape()).cols * element_bytes_;
}

std::string SliceExpression::parameters() const {
  std::string text;
  for (const SlicePart& part : parts_) {
    const Box& box = part.box;
    text += fmt::format(FMT_STRING("{}-{},{}-{};"), box.row_begin, box.row_end, box.col_begin,
                        box.col_end);
  }
  return text;
}

std::vector<std::uint32_t> SliceExpression::streamed_sources() const {
  std::vector<std::uint32_t> sources;
  for (const SlicePart& part : parts_) AddNew(part.origin->streamed_sources(), sources);
  return sources;
}

std::vector<std::uint32_t> SliceExpression::side_sources() const {
  std::vector<std::uint32_t> sources;
  for (const SlicePart& part : parts_) AddNew(part.origin->side_sources(), sources);
  return sources;
}

std::uint64_t SliceExpression::input_bytes_per_output_byte() const {
  std::uint64_t most = 1;
  for (const SlicePart& part : parts_) {
    if (part.box.empty()) continue;
    const std::uint64_t input = part.origin->input_bytes_per_output_byte();
    // Rows of which a part is taken are made beside the value.
    most = std::max(most, WholeRows(part) ? input
                                          : CeilDiv(OriginRowBytes(part) * (input + 1),
                                                    part.box.cols() * element_bytes_));
  }
  return most;
}

std::pair<const SlicePart*, std::uint64_t> SliceExpression::PartAt(std::uint64_t position) const {
  std::uint64_t begin = 0;
  for (const SlicePart& part : parts_) {
    const std::uint64_t bytes = PartBytes(part);
    if (position < begin + bytes) return {&part, begin};
    begin += bytes;
  }
  Fail("that has no such byte");
}

std::uint64_t SliceExpression::CutAtOrBefore(std::uint64_t position) const {
  if (position >= num_bytes() - zero_bytes_) return position;
  const auto [part, begin] = PartAt(position);
  const std::uint64_t at = position - begin;
  if (!WholeRows(*part)) return position - at % (part->box.cols() * element_bytes_);
  const std::uint64_t skipped = part->box.row_begin * OriginRowBytes(*part);
  const std::uint64_t cut = part->origin->CutAtOrBefore(skipped + at);
  return begin + std::max(cut, skipped) - skipped;
}

std::uint64_t SliceExpression::CutAfter(std::uint64_t position) const {
  if (position >= num_bytes() - zero_bytes_) return position + 1;
  const auto [part, begin] = PartAt(position);
  const std::uint64_t at = position - begin;
  if (!WholeRows(*part)) {
    const std::uint64_t row_bytes = part->box.cols() * element_bytes_;
    return position - at % row_bytes + row_bytes;
  }
  const std::uint64_t skipped = part->box.row_begin * OriginRowBytes(*part);
  return begin + std::min(part->origin->CutAfter(skipped + at) - skipped, PartBytes(*part));
}

SliceExpression::Piece SliceExpression::PieceOf(const SlicePart& part, std::uint64_t part_begin,
                                                ByteRange range) const {
  Piece piece;
  piece.part = &part;
  piece.value = range;
  const std::uint64_t origin_row_bytes = OriginRowBytes(part);
  const std::uint64_t skipped = part.box.row_begin * origin_row_bytes;
  if (WholeRows(part)) {
    piece.origin = {skipped + range.begin - part_begin, skipped + range.end - part_begin};
  } else {
    const std::uint64_t row_bytes = part.box.cols() * element_bytes_;
    piece.origin = {skipped + (range.begin - part_begin) / row_bytes * origin_row_bytes,
                    skipped + (range.end - part_begin) / row_bytes * origin_row_bytes};
  }
  // An origin may be one that cannot be cut where its box begins or ends.
  const Expression& origin = *part.origin;
  const std::uint64_t begin = piece.origin.begin;
  piece.origin.begin = origin.CutAtOrBefore(begin);
  piece.offset = begin - piece.origin.begin + part.box.col_begin * element_bytes_;
  const std::uint64_t end = piece.origin.end;
  if (end < origin.num_bytes() && origin.CutAtOrBefore(end) != end) {
    piece.origin.end = origin.CutAfter(end);
  }
  return piece;
}

template <typename Function>
void SliceExpression::ForEachPiece(std::uint64_t begin, std::uint64_t end,
                                   Function&& function) const {
  std::uint64_t part_begin = 0;
  for (const SlicePart& part : parts_) {
    const std::uint64_t part_end = part_begin + PartBytes(part);
    const ByteRange range = {std::max(begin, part_begin), std::min(end, part_end)};
    if (!range.empty()) function(PieceOf(part, part_begin, range));
    part_begin = part_end;
  }
}

std::optional<SourceRange> SliceExpression::AsStored(std::uint64_t begin, std::uint64_t end) const {
  if (begin >= num_bytes() - zero_bytes_) return std::nullopt;
  const auto [part, part_begin] = PartAt(begin);
  if (!WholeRows(*part) || end - part_begin > PartBytes(*part)) return std::nullopt;
  const std::uint64_t skipped = part->box.row_begin * OriginRowBytes(*part);
  return part->origin->AsStored(skipped + begin - part_begin, skipped + end - part_begin);
}

void SliceExpression::AppendReads(std::uint64_t begin, std::uint64_t end,
                                  std::vector<SourceRange>& reads) const {
  ForEachPiece(begin, end, [&](const Piece& piece) {
    piece.part->origin->AppendReads(piece.origin.begin, piece.origin.end, reads);
  });
}

void SliceExpression::Evaluate(std::uint64_t begin, std::uint64_t end,
                               std::span<const std::span<const std::byte>> inputs,
                               EvaluationOutput& out) const {
  std::vector<SourceRange> reads;
  std::vector<std::byte> rows;
  std::uint64_t made = begin;
  ForEachPiece(begin, end, [&](const Piece& piece) {
    const SlicePart& part = *piece.part;
    reads.clear();
    part.origin->AppendReads(piece.origin.begin, piece.origin.end, reads);
    const auto own_inputs = inputs.first(reads.size());
    inputs = inputs.subspan(reads.size());
    const std::span<std::byte> value =
        out.value.subspan(static_cast<std::size_t>(piece.value.begin - begin),
                          static_cast<std::size_t>(piece.value.size()));
    made = piece.value.end;
    const bool direct = WholeRows(part) && piece.origin.size() == piece.value.size();
    if (!direct) rows.resize(static_cast<std::size_t>(piece.origin.size()));
    EvaluationOutput origin_out{direct ? value : std::span(rows), {}, std::move(out.counts)};
    part.origin->Evaluate(piece.origin.begin, piece.origin.end, own_inputs, origin_out);
    out.counts = std::move(origin_out.counts);
    if (direct) return;
    const auto row_bytes =
        static_cast<std::size_t>(WholeRows(part) ? value.size() : part.box.cols() * element_bytes_);
    auto at = static_cast<std::size_t>(piece.offset);
    for (std::size_t done = 0; done < value.size(); done += row_bytes) {
      std::memcpy(value.data() + done, rows.data() + at, row_bytes);
      at += static_cast<std::size_t>(OriginRowBytes(part));
    }
  });
  const auto zeros = static_cast<std::size_t>(end - std::max(begin, made));
  if (zeros != 0) std::memset(out.value.data() + (out.value.size() - zeros), 0, zeros);
}

}  // namespace dsv3::convert
