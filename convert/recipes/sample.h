#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "convert/catalog/progress.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

enum class SamplePreset {
  kTiny,      // a few MB: for tests and a first look
  kTinyV32,   // as tiny, in V3.2's shape: indexers, UE8M0 scales in F32
  kTinyKimi,  // as tiny, in Kimi-K2's shape: no MTP layer, unpadded shard names
  kTinyTp,    // some 30 MB: 16 heads and 32 experts, for resharding
  kTiny61,    // some 45 MB: V3's 61 layers and MTP layer 61, for 8 tensor parallel ranks
  kSmall,     // about 1 GB: for benchmarks
  kV3Shapes,  // DeepSeek-V3's 91,991 tensors in 163 sparse files: for planning and inspection
};

struct SampleOptions {
  SamplePreset preset = SamplePreset::kTiny;
  std::uint64_t seed = 0;
};

struct SampleReport {
  std::uint64_t files = 0;
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;  // as the files' lengths tell; sparse files take less of the disk
};

// Writes a genuine FP8 checkpoint in Hugging Face form below `out`: V3 names, several shards, some
// scales in another shard than their weight, the ragged 576-row projection, negative router
// biases, an MTP layer, config.json, a tokenizer stub, generation_config.json, index. Weights are
// drawn like real ones and quantised by quant::Quantize. Equal preset and seed give equal
// bytes on every machine. Files appear under their names when complete, the index last.
// `out` must be missing or an empty directory (kUsage). kIo from the disk.
SampleReport WriteSample(const SampleOptions& options, const std::filesystem::path& out,
                         formats::FileSystem& fs, ProgressSink& progress);

}  // namespace dsv3::convert
