#include "convert/recipes/packed_sizes.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/packing/chunk_coder.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_bytes.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/existence.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kSampleBytes = std::uint64_t{256} << 10;
constexpr std::uint64_t kSamples = 8;  // of each dtype

// The samples of the tensors of one dtype, which are at the same distances from each other.
std::vector<SourceRange> ChooseSamples(const Catalog& catalog,
                                       const std::vector<std::uint32_t>& tensors) {
  std::uint64_t bytes = 0;
  for (const std::uint32_t tensor : tensors) bytes += catalog.tensors()[tensor].extent.length;
  std::vector<SourceRange> samples;
  std::uint64_t before = 0;  // bytes of the tensors before this one
  for (const std::uint32_t tensor : tensors) {
    const std::uint64_t length = catalog.tensors()[tensor].extent.length;
    while (samples.size() < kSamples) {
      // The middle of the part that the next sample stands for.
      const std::uint64_t middle = bytes / kSamples * samples.size() + bytes / (2 * kSamples);
      if (middle >= before + length) break;
      const std::uint64_t begin = (middle - before) / sizeof(double) * sizeof(double);
      samples.push_back({tensor, begin, std::min(length, begin + kSampleBytes)});
    }
    before += length;
  }
  return samples;
}

}  // namespace

PackedSizes SamplePackedSizes(const Catalog& catalog, const std::vector<ExpressionPtr>& bases) {
  std::vector<bool> is_there;
  for (const SourceFile& file : catalog.files()) {
    is_there.push_back(formats::Exists(file.path));
  }
  std::map<std::pair<formats::Dtype, bool>, std::vector<std::uint32_t>> tensors;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    if (tensor.extent.length != 0 && is_there[tensor.extent.file]) {
      tensors[{tensor.dtype, bases[i] != nullptr}].push_back(i);
    }
  }
  SourceFiles sources(catalog);
  ChunkEncoder encoder;
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
  std::vector<std::byte> packed(PackedChunkBound(kSampleBytes));
  std::vector<formats::SeekEntry> frames;
  PackedSizes sizes;
  for (const auto& [kind, held] : tensors) {
    std::uint64_t raw_bytes = 0;
    std::uint64_t packed_bytes = 0;
    for (const SourceRange& sample : ChooseSamples(catalog, held)) {
      sources.Read(std::span(&sample, 1), buffer, inputs);
      raw_bytes += inputs[0].size();
      std::vector<std::byte> base;
      if (kind.second) {
        base = ReadValue(*bases[sample.tensor], {sample.begin, sample.end}, sources);
      }
      packed_bytes += encoder.Encode(kind.first, inputs[0], base, packed, frames);
    }
    sizes[kind] = static_cast<double>(packed_bytes) / static_cast<double>(raw_bytes);
  }
  return sizes;
}

}  // namespace dsv3::convert
