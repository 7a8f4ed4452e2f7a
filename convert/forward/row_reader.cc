#include "convert/forward/row_reader.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "convert/stream/value_reader.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/page_cache.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kMinReadAhead = 2;  // panels

std::vector<DerivedTensors> DerivedOf(const OpenedModel& model,
                                      const std::vector<ExpressionPtr>& origins) {
  std::vector<DerivedTensors> derived = TensorsOf(model).derived;
  if (!origins.empty()) derived.front().origins = origins;
  return derived;
}

}  // namespace

RowReader::RowReader(const OpenedModel& model, const ScaleMap& scales,
                     const std::vector<ExpressionPtr>& origins, const PanelMemory& memory)
    : model_(model),
      scales_(scales),
      kept_bytes_(memory.kept_bytes),
      sources_(model.catalog, DerivedOf(model, origins)),
      read_ahead_(
          [this](const TensorRows& rows, RowBytes& bytes) {
            sources_.Read(RangesOf(rows), bytes.buffer, bytes.inputs);
          },
          static_cast<std::size_t>(
              std::max(kMinReadAhead, memory.read_ahead_bytes / memory.panel_bytes))) {}

std::vector<SourceRange> RowReader::RangesOf(const TensorRows& rows) const {
  const ValueReader reader(model_.catalog, rows.tensor, scales_);
  const std::uint64_t first = rows.first * rows.cols;
  const std::uint64_t last = rows.end * rows.cols;
  std::vector<SourceRange> ranges = {{rows.tensor, reader.BytesTo(first), reader.BytesTo(last)}};
  reader.AppendScaleReads(first, last, ranges);
  return ranges;
}

const RowBytes& RowReader::BytesOf(const TensorRows& rows, RowBytes& own) {
  if (const RowBytes* const kept = kept_.Find(rows)) return *kept;
  const std::vector<SourceRange> ranges = RangesOf(rows);
  // Beside the bytes a buffer has what aligns them.
  std::uint64_t memory = 3 * formats::kDirectAlignment;
  for (const SourceRange& range : ranges) memory += range.end - range.begin;
  const bool keeps = kept_.Admit(rows, memory);
  RowBytes read;
  RowBytes& to = keeps ? read : own;
  if (!read_ahead_.Take(rows, to)) sources_.Read(ranges, to.buffer, to.inputs);
  return keeps ? kept_.Keep(rows, std::move(read)) : own;
}

bool RowReader::IsAtHand(const TensorRows& rows) {
  if (!TensorsOf(model_).derived.empty()) return true;
  if (kept_.Find(rows) != nullptr || read_ahead_.IsAsked(rows)) return true;
  const SourceRange range = RangesOf(rows).front();
  const Extent& extent = model_.catalog.tensors()[range.tensor].extent;
  return formats::IsInPageCache(model_.catalog.files()[extent.file].path,
                                extent.offset + range.begin, extent.offset + range.end);
}

}  // namespace dsv3::convert
