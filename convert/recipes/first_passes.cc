#include "convert/recipes/first_passes.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "convert/stream/executor.h"
#include "convert/stream/scan.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

// A pass that is run, with the original's scales.
struct RunningPass {
  FirstPass* pass = nullptr;
  std::vector<std::byte> scales;
};

std::vector<std::byte> ReadWhole(const Catalog& catalog, std::uint32_t tensor,
                                 SourceFiles& sources) {
  const std::uint64_t length = catalog.tensors()[tensor].extent.length;
  if (length == 0) return {};
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  const SourceRange range{tensor, 0, length};
  sources.Read(std::span(&range, 1), buffer, inputs);
  return {inputs[0].begin(), inputs[0].end()};
}

}  // namespace

bool IsPassNeeded(std::span<const std::size_t> of_pass, std::span<const std::size_t> files) {
  return std::any_of(of_pass.begin(), of_pass.end(), [&](std::size_t file) {
    return std::find(files.begin(), files.end(), file) != files.end();
  });
}

void RunFirstPasses(const Catalog& catalog, std::span<const Bf16ToFp8Plan::Pass> passes,
                    std::span<const std::size_t> files, SourceFiles& sources, const RunOptions& run,
                    ProgressSink& progress, const StopToken& stop) {
  std::vector<std::uint32_t> weights;
  std::unordered_map<std::uint32_t, RunningPass> running;
  for (const Bf16ToFp8Plan::Pass& pass : passes) {
    if (pass.first_pass->finished() || !IsPassNeeded(pass.files, files)) continue;
    const QuantizedWeight& weight = pass.first_pass->weight();
    weights.push_back(weight.weight);
    RunningPass& entry = running[weight.weight];
    entry.pass = pass.first_pass.get();
    if (weight.original) entry.scales = ReadWhole(catalog, weight.original->scale, sources);
  }
  if (weights.empty()) return;

  ScanOptions options;
  options.threads = ResolveThreads(run.threads);
  options.memory_bytes = run.memory_bytes;
  options.phase = "finding scales";
  options.side = [&](std::uint32_t tensor, std::uint64_t begin, std::uint64_t end,
                     std::vector<SourceRange>& reads) {
    const QuantizedWeight& weight = running.at(tensor).pass->weight();
    if (!weight.original) return;
    const std::uint64_t value_bytes = quant::FloatBytes(weight.values);
    reads.push_back({weight.original->codes, begin / value_bytes, end / value_bytes});
  };
  const auto visit = [&](const ScanPiece& piece) {
    const RunningPass& entry = running.at(piece.tensor);
    const std::uint64_t value_bytes = quant::FloatBytes(entry.pass->weight().values);
    const auto original = piece.side.empty() ? std::span<const std::byte>() : piece.side[0];
    entry.pass->Add(piece.begin / value_bytes, piece.bytes, original, entry.scales);
  };
  ScanTensors(catalog, weights, sources, options, {}, visit, progress, stop);
  for (const std::uint32_t weight : weights) {
    const RunningPass& entry = running.at(weight);
    entry.pass->Finish(entry.scales);
  }
}

}  // namespace dsv3::convert
