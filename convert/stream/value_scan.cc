#include "convert/stream/value_scan.h"

#include <cmath>
#include <vector>

#include "convert/stream/scan.h"

namespace dsv3::convert {

void ScanValues(const Catalog& catalog, std::span<const std::uint32_t> tensors,
                const ScaleMap& scales, SourceFiles& sources, const ValueScanOptions& options,
                const ValueCut& cut, const std::function<void(const ValuePiece&)>& visit,
                ProgressSink& progress, const StopToken& stop) {
  ScanOptions scan;
  scan.threads = options.threads;
  scan.memory_bytes = options.memory_bytes;
  scan.phase = options.phase;
  scan.in_order = options.in_order;
  scan.side = [&](std::uint32_t tensor, std::uint64_t begin, std::uint64_t end,
                  std::vector<SourceRange>& reads) {
    const ValueReader reader(catalog, tensor, scales);
    reader.AppendScaleReads(reader.ElementAt(begin), reader.ElementAt(end), reads);
  };
  ScanCut scan_cut;
  if (cut) {
    scan_cut = [&](std::uint32_t tensor, std::uint64_t position) {
      const ValueReader reader(catalog, tensor, scales);
      const std::uint64_t element = reader.ElementAt(position);
      return element == 0 ? 0 : reader.BytesTo(cut(reader, element));
    };
  }
  const auto visit_values = [&](const ScanPiece& piece) {
    const ValueReader reader(catalog, piece.tensor, scales);
    const std::uint64_t begin = reader.ElementAt(piece.begin);
    const std::uint64_t end = reader.ElementAt(piece.begin + piece.bytes.size());
    ValueReader::Scales piece_scales;
    reader.DecodeScales(begin, end, piece.side, piece_scales);
    visit({piece.tensor, begin, end, piece.begin, piece.bytes, reader, piece_scales});
  };
  ScanTensors(catalog, tensors, sources, scan, scan_cut, visit_values, progress, stop);
}

void BadScales::Add(std::uint64_t begin, std::span<const float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && values[i] > 0) continue;
    ++count;
    if (begin + i < first) {
      first = begin + i;
      first_value = values[i];
    }
  }
}

void BadScales::Add(const BadScales& other) {
  count += other.count;
  if (other.first < first) {
    first = other.first;
    first_value = other.first_value;
  }
}

}  // namespace dsv3::convert
