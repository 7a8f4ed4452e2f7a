#include "convert/recipes/tensor_scales.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "convert/plan/row_tensors.h"
#include "convert/recipes/first_passes.h"
#include "convert/stream/executor.h"
#include "convert/stream/value_reader.h"
#include "convert/stream/value_scan.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

float AmaxOf(const ValuePiece& piece) {
  float amax = 0;
  std::array<float, kValueChunk> values{};
  for (std::uint64_t at = piece.begin; at < piece.end; at += kValueChunk) {
    const std::uint64_t end = std::min(piece.end, at + kValueChunk);
    const std::uint64_t first = piece.reader.BytesTo(at);
    const auto bytes =
        piece.bytes.subspan(first - piece.first_byte, piece.reader.BytesTo(end) - first);
    if (piece.reader.scaled()) {
      piece.reader.FloatsRoundedToBF16(at, bytes, piece.scales, values.data());
    } else {
      piece.reader.Floats(at, bytes, piece.scales, values.data());
    }
    amax = std::max(amax, quant::MeasureFloats(std::span(values).first(end - at)).absmax);
  }
  return amax;
}

}  // namespace

void FindTensorScales(const OpenedModel& model, std::span<const ScaledWeight> scaled,
                      std::span<const TensorScalePass> passes, std::span<const std::size_t> files,
                      SourceFiles& sources, const RunOptions& run, ProgressSink& progress,
                      const StopToken& stop) {
  std::vector<std::uint32_t> weights;
  std::unordered_map<std::uint32_t, TensorScale*> scale_of;
  std::vector<TensorScale*> found;
  for (const TensorScalePass& pass : passes) {
    if (pass.scale->finished() || !IsPassNeeded(pass.files, files)) continue;
    found.push_back(pass.scale.get());
    for (const std::uint32_t weight : pass.weights) {
      weights.push_back(weight);
      scale_of[weight] = pass.scale.get();
    }
  }
  if (weights.empty()) return;
  ValueScanOptions options;
  options.threads = ResolveThreads(run.threads);
  options.memory_bytes = run.memory_bytes;
  options.phase = "finding scales";
  const auto visit = [&](const ValuePiece& piece) {
    scale_of.at(piece.tensor)->Raise(AmaxOf(piece));
  };
  const ScaleMap scales(scaled, model.catalog.tensors().size());
  const RowTensors rows(model.catalog, scaled, TensorsOf(model).derived);
  std::optional<SourceFiles> by_rows;
  if (rows.any()) by_rows.emplace(model.catalog, rows.derived());
  ScanValues(model.catalog, weights, scales, by_rows ? *by_rows : sources, options, {}, visit,
             progress, stop);
  for (TensorScale* const scale : found) scale->Finish();
}

}  // namespace dsv3::convert
