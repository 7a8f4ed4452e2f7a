#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/runner.h"
#include "convert/parallel/expert_load.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/slicing.h"
#include "convert/parallel/topology.h"
#include "formats/io/file_system.h"

// dsv3-reshard from the user's side. Nothing here prints.
namespace dsv3::convert {

enum class RankFormat {
  kHfRank,    // Hugging Face names: model-rank-{rank}-part-{part}.safetensors
  kDeepseek,  // the official demo's: model{i}-mp{mp}.safetensors
  kKeys,      // an engine's own keys, from a file
};

enum class RankGrouping {
  kRank,       // every rank's files are its own
  kComponent,  // every distinct slice is stored once
};

inline constexpr std::uint64_t kDefaultMaxShardBytes = std::uint64_t{5} << 30;

struct ReshardOptions {
  ParallelOptions parallel;
  PlacementOptions placement;
  RankFormat format = RankFormat::kHfRank;
  std::filesystem::path keys;  // of kKeys
  RankGrouping grouping = RankGrouping::kRank;
  OnMisaligned on_misaligned = OnMisaligned::kError;
  std::optional<bool> keep_mtp;                           // nothing: kept, but dropped in kDeepseek
  std::uint64_t max_shard_bytes = kDefaultMaxShardBytes;  // of tensor data, where tensors allow it
  // --ranks: first and last of each range, as given; empty: all.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranks;
};

struct ReshardRequest {
  std::filesystem::path input;
  std::filesystem::path output;
  ReshardOptions options;
  RunOptions run;
};

// A rank in the balance report.
struct RankReport {
  Rank rank;
  std::uint64_t bytes = 0;  // of the tensors that it loads
  // The same by kind of module, in the order of ModuleKind.
  std::array<std::uint64_t, kModuleKinds> bytes_by_kind = {};
  std::uint64_t parameters = 0;  // elements of all but scales
  std::uint64_t experts = 0;     // routed experts that it holds, over all layers
  std::vector<std::string> files;
};

struct ReshardReport {
  ConversionReport conversion;  // recipe "reshard"
  Topology topology;
  std::vector<RankReport> ranks;
  std::vector<std::vector<std::uint32_t>> expert_map;  // [layers][physical]; empty without experts
  std::uint64_t first_moe_layer = 0;
  std::optional<ExpertLoad> expert_load;  // with --expert-load
  std::vector<std::string> replicated_modules;
  std::vector<std::string> bf16_modules;
  std::optional<quant::BlockShape> recut_block;
  std::vector<std::string> dropped;
};

// Runs `dsv3-reshard IN OUT`; IN is a checkpoint or a directory of rank shards. As RunConversion.
ReshardReport Reshard(const ReshardRequest& request, formats::FileSystem& fs,
                      ProgressSink& progress, const StopToken& stop);

struct MergeReport {
  ConversionReport conversion;  // recipe "merge"
  // Whether every file is what the ranks were made from, byte for byte; otherwise what differs, in
  // sentences.
  bool original = true;
  std::vector<std::string> differences;
};

struct MergeOptions {
  // --config: the model's config.json, where RANKS holds the files of DeepSeek's inference demo.
  std::filesystem::path demo_config = {};
};

// Runs `dsv3-reshard merge RANKS OUT`. RANKS is a directory of rank shards, or of the files of
// DeepSeek's inference demo.
MergeReport Merge(const JobRequest& request, formats::FileSystem& fs, ProgressSink& progress,
                  const StopToken& stop, const MergeOptions& options = {});

}  // namespace dsv3::convert
