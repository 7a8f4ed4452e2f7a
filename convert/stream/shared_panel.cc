#include "convert/stream/shared_panel.h"

#include <algorithm>
#include <cstring>

namespace dsv3::convert {
namespace {

// Values within a buffer begin at multiples of this, so that kernels may write them in words.
constexpr std::uint64_t kValueAlignment = 64;

// A copy's value is what was read.
bool IsCopy(const Expression& origin) { return origin.rule() == "copy"; }

std::size_t Size(std::uint64_t bytes) { return static_cast<std::size_t>(bytes); }

void Reserve(formats::AlignedBuffer& buffer, std::uint64_t bytes) {
  if (buffer.size() >= bytes) return;
  buffer = formats::AlignedBuffer();
  buffer = formats::AlignedBuffer(Size(bytes));
}

// Whether a piece may begin or end at `position`.
bool MayCut(const SharedRead& read, std::uint64_t position) {
  return (!read.CutsRows() || position % read.row_bytes == 0) &&
         (position == read.origin->num_bytes() || read.origin->CutAtOrBefore(position) == position);
}

// The last place that is not behind `position` where a piece may begin or end.
std::uint64_t CutAtOrBefore(const SharedRead& read, std::uint64_t position) {
  if (position >= read.origin->num_bytes()) return read.origin->num_bytes();
  while (!MayCut(read, position)) {
    position = read.origin->CutAtOrBefore(position);
    if (read.CutsRows()) position -= position % read.row_bytes;
  }
  return position;
}

// The first such place behind `position`.
std::uint64_t CutAfter(const SharedRead& read, std::uint64_t position) {
  const std::uint64_t end = read.origin->num_bytes();
  do {
    // No need to ask for every place within a row.
    if (read.CutsRows()) position += read.row_bytes - position % read.row_bytes - 1;
    position = position >= end ? end : read.origin->CutAfter(position);
  } while (!MayCut(read, position));
  return position;
}

}  // namespace

std::uint64_t PanelBytesPerByte(const SharedRead& read) {
  return read.origin->input_bytes_per_output_byte() + (IsCopy(*read.origin) ? 0 : 1) +
         read.GatheredPerByte();
}

std::uint64_t PanelPiece::BytesIn(const Box& box) const {
  if (box.empty()) return 0;
  const std::uint64_t first = std::max(begin, box.row_begin * read->row_bytes);
  const std::uint64_t last = std::min(end, box.row_end * read->row_bytes);
  if (first >= last) return 0;
  if (box.cols() == read->matrix.cols) return last - first;
  return (last - first) / read->matrix.cols * box.cols();
}

void SharedPanel::Clear() {
  pieces.clear();
  cuts.clear();
  reads.clear();
  ready = false;
  pending = 0;
}

PanelPiece& SharedPanel::Add(const SharedRead& read, std::uint64_t begin, std::uint64_t end) {
  PanelPiece& piece = pieces.emplace_back();
  piece.read = &read;
  piece.begin = begin;
  piece.end = end;
  piece.ends_origin = end == read.origin->num_bytes();
  piece.first_input = reads.size();
  read.origin->AppendReads(begin, end, reads);
  piece.num_inputs = reads.size() - piece.first_input;
  return piece;
}

void SharedPanel::Make(SourceFiles& sources, Workers& workers) {
  sources.Read(reads, input_buffer, inputs);
  std::uint64_t value_bytes = 0;
  std::uint64_t gather_bytes = 0;
  for (const PanelPiece& piece : pieces) {
    if (IsCopy(*piece.read->origin)) continue;
    value_bytes += formats::AlignUp(piece.end - piece.begin, kValueAlignment);
  }
  for (const PanelCut& cut : cuts) {
    const PanelPiece& piece = pieces[cut.piece];
    if (cut.box.cols() != piece.read->matrix.cols) gather_bytes += piece.BytesIn(cut.box);
  }
  Reserve(value_buffer, value_bytes);
  Reserve(gather_buffer, gather_bytes);
  const ComputeSlot slot = workers.Compute();
  Evaluate();
  std::size_t gathered = 0;
  for (PanelCut& cut : cuts) cut.bytes = CutOut(cut, gathered);
}

void SharedPanel::Evaluate() {
  std::size_t at = 0;
  for (PanelPiece& piece : pieces) {
    const auto own_inputs = std::span(inputs).subspan(piece.first_input, piece.num_inputs);
    if (IsCopy(*piece.read->origin)) {
      piece.value = own_inputs[0];
      continue;
    }
    EvaluationOutput out;
    out.value = value_buffer.span().subspan(at, Size(piece.end - piece.begin));
    piece.read->origin->Evaluate(piece.begin, piece.end, own_inputs, out);
    piece.value = out.value;
    at += Size(formats::AlignUp(piece.end - piece.begin, kValueAlignment));
  }
}

std::span<const std::byte> SharedPanel::CutOut(const PanelCut& cut, std::size_t& gathered) {
  const PanelPiece& piece = pieces[cut.piece];
  const SharedRead& read = *piece.read;
  const std::uint64_t first = std::max(piece.begin, cut.box.row_begin * read.row_bytes);
  const std::uint64_t last = std::min(piece.end, cut.box.row_end * read.row_bytes);
  const auto rows = piece.value.subspan(Size(first - piece.begin), Size(last - first));
  if (cut.box.cols() == read.matrix.cols) return rows;
  const std::uint64_t element = read.row_bytes / read.matrix.cols;
  const std::size_t width = Size(cut.box.cols() * element);
  const std::size_t begin = gathered;
  const std::byte* from = rows.data() + cut.box.col_begin * element;
  for (std::uint64_t row = first; row < last; row += read.row_bytes) {
    std::memcpy(gather_buffer.data() + gathered, from, width);
    from += read.row_bytes;
    gathered += width;
  }
  return gather_buffer.span().subspan(begin, gathered - begin);
}

bool ReadCursor::FindPiece() {
  const SharedRead& one = read();
  if (!needed_known_) {
    needed_ = one.NeededRows();
    if (whole_) needed_ = {{0, one.matrix.rows}};
    needed_known_ = true;
  }
  for (const RowRange& rows : needed_) {
    if (begin_ >= rows.end * one.row_bytes) continue;
    if (begin_ < rows.begin * one.row_bytes) {
      begin_ = std::max(begin_, CutAtOrBefore(one, rows.begin * one.row_bytes));
    }
    const std::uint64_t end = rows.end * one.row_bytes;
    needed_end_ = MayCut(one, end) ? end : CutAfter(one, end);
    return true;
  }
  return false;
}

std::uint64_t ReadCursor::End(std::uint64_t bytes) const {
  if (needed_end_ - begin_ <= bytes) return needed_end_;
  const std::uint64_t cut = CutAtOrBefore(read(), begin_ + bytes);
  return std::min(needed_end_, cut > begin_ ? cut : CutAfter(read(), begin_));
}

void ReadCursor::EndRead() {
  ++next_;
  begin_ = 0;
  needed_known_ = false;
}

}  // namespace dsv3::convert
