#include "convert/stream/value_bytes.h"

#include <span>

#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {

std::vector<std::byte> ReadValue(const Expression& value, ByteRange range, SourceFiles& sources) {
  const ByteRange around = PiecesAround(value, range);
  std::vector<SourceRange> reads;
  value.AppendReads(around.begin, around.end, reads);
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  sources.Read(reads, buffer, inputs);
  std::vector<std::byte> made(static_cast<std::size_t>(around.size()));
  EvaluationOutput out{made, {}, {}};
  value.Evaluate(around.begin, around.end, inputs, out);
  if (around.begin == range.begin && around.end == range.end) return made;
  const auto begin = made.begin() + static_cast<std::ptrdiff_t>(range.begin - around.begin);
  return {begin, begin + static_cast<std::ptrdiff_t>(range.size())};
}

}  // namespace dsv3::convert
