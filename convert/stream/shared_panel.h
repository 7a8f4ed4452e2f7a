#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/plan/expression.h"
#include "convert/stream/read_order.h"
#include "convert/stream/source_files.h"
#include "convert/stream/workers.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {

// Rows of one origin within a panel: bytes [begin, end) of its value.
struct PanelPiece {
  const SharedRead* read = nullptr;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::size_t first_input = 0;  // in SharedPanel::inputs
  std::size_t num_inputs = 0;
  std::span<const std::byte> value;
  bool ends_origin = false;

  // How many of its bytes lie in a box.
  std::uint64_t BytesIn(const Box& box) const;
};

// Bytes of a box of an origin that lie in a piece.
struct PanelCut {
  std::size_t piece = 0;
  Box box;
  std::span<const std::byte> bytes;
};

// A piece of work: rows of one origin, or several small origins, read and made together.
struct SharedPanel {
  std::uint64_t number = 0;  // in the order of issue
  std::vector<PanelPiece> pieces;
  std::vector<PanelCut> cuts;
  bool ready = false;       // the cuts hold their bytes
  std::size_t pending = 0;  // users that still need it
  std::vector<SourceRange> reads;
  std::vector<std::span<const std::byte>> inputs;

  formats::AlignedBuffer input_buffer;
  formats::AlignedBuffer value_buffer;
  formats::AlignedBuffer gather_buffer;

  void Clear();
  PanelPiece& Add(const SharedRead& read, std::uint64_t begin, std::uint64_t end);
  // Reads, makes the pieces' values and sets the bytes of the cuts; computes while it holds a
  // compute slot.
  void Make(SourceFiles& sources, Workers& workers);

 private:
  void Evaluate();
  std::span<const std::byte> CutOut(const PanelCut& cut, std::size_t& gathered);
};

// Memory of a panel for each byte of an origin's value: bytes that are read, made and gathered.
std::uint64_t PanelBytesPerByte(const SharedRead& read);

// Walks through the reads of a group in pieces that suit all their cuts.
class ReadCursor {
 public:
  // `whole`: rows that no cut needs are read as well.
  ReadCursor(const ReadGroup& group, bool whole) : group_(group), whole_(whole) {}

  // Whether all reads have ended.
  bool AtEnd() const { return next_ == group_.reads.size(); }
  // Precondition: not AtEnd().
  const SharedRead& read() const { return group_.reads[next_]; }
  // Goes to where the next piece of the read begins; false where nothing more of it is needed.
  bool FindPiece();
  std::uint64_t begin() const { return begin_; }
  // Where the piece ends that takes about `bytes`; at least one that cannot be cut.
  std::uint64_t End(std::uint64_t bytes) const;
  void MoveTo(std::uint64_t position) { begin_ = position; }
  // Goes to the next read.
  void EndRead();

 private:
  const ReadGroup& group_;
  const bool whole_;
  std::size_t next_ = 0;
  std::uint64_t begin_ = 0;
  std::uint64_t needed_end_ = 0;
  std::vector<RowRange> needed_;
  bool needed_known_ = false;
};

}  // namespace dsv3::convert
