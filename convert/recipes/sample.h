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
  // The relatives, a few MB each, with the names, dtypes and configs of the models:
  kV2Lite,     // V2-Lite: BF16, plain q_proj, softmax routing
  kMoonlight,  // Moonlight: BF16, plain q_proj
  kV32,        // V3.2: as kTinyV32, with the indexers' norms in F32
  kGlm5,       // GLM-5: FP8, indexers, an MTP layer without copies of embedding and head
  kKimiInt4,   // Kimi K2-Thinking: routed experts in packed INT4
  kKimiK25,    // Kimi K2.5: the same below language_model., beside a vision tower
  kAwq,        // AWQ's INT4 of V3: all linears, groups of 64
  kNvFp4,      // ModelOpt's NVFP4 of V3: routed experts
  kV4,         // DeepSeek-V4: FP8 and FP4 with E8M0 scales, compressors, an MTP layer as mtp.0
  kV3Shapes,   // DeepSeek-V3's 91,991 tensors in 163 sparse files: for planning and inspection
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

// Writes a genuine checkpoint in Hugging Face form below `out`: the preset's names, several shards,
// some scales in another shard than their weight, the ragged 576-row projection, negative router
// biases, an MTP layer, config.json, a tokenizer stub, generation_config.json, index. Weights are
// drawn like real ones and quantised as the model's are. Equal preset and seed give equal
// bytes on every machine. Files appear under their names when complete, the index last.
// `out` must be missing or an empty directory (kUsage). kIo from the disk.
SampleReport WriteSample(const SampleOptions& options, const std::filesystem::path& out,
                         formats::FileSystem& fs, ProgressSink& progress);

}  // namespace dsv3::convert
