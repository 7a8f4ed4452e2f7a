#include "convert/recipes/reshard.h"

#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/rank_config.h"
#include "convert/parallel/size_rules.h"
#include "convert/recipes/reshard_files.h"
#include "convert/recipes/reshard_names.h"
#include "convert/recipes/reshard_ranks.h"
#include "convert/recipes/side_files.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void FailUsage(std::string message) {
  throw Error(ErrorCode::kUsage, std::move(message));
}

// The official script knows one number of ranks, over which it cuts everything.
void CheckDeepseek(const ReshardOptions& options) {
  const auto refuse = [](std::string_view option, std::string_view problem) {
    FailUsage(
        fmt::format("{}: {}; leave the option out, or choose --format hf-rank", option, problem));
  };
  const ParallelOptions& parallel = options.parallel;
  const std::uint64_t tp = parallel.tp.value_or(1);
  const auto require = [&](std::string_view option, const std::optional<std::uint64_t>& value,
                           std::uint64_t wanted) {
    if (!value || *value == wanted) return;
    refuse(fmt::format("{} {}", option, *value),
           fmt::format("the deepseek format has only {} there, for --tp {}", wanted, tp));
  };
  require("--ep", parallel.ep, tp);
  require("--dp", parallel.dp, 1);
  require("--pp", parallel.pp, 1);
  require("--dense-tp", parallel.dense_tp, tp);
  require("--shared-expert-tp", parallel.shared_expert_tp, tp);
  require("--embed-tp", parallel.embed_tp, tp);
  require("--redundant-experts", parallel.redundant_experts, 0);
  if (options.placement.kind != PlacementKind::kContiguous) {
    refuse("--ep-placement", "the deepseek format has contiguous experts");
  }
  if (!options.placement.expert_load.empty()) {
    refuse("--expert-load", "the deepseek format has contiguous experts");
  }
  if (options.on_misaligned != OnMisaligned::kError) {
    refuse("--on-misaligned", "the deepseek format has the official script's cuts alone");
  }
}

ParallelOptions ParallelOf(const ReshardOptions& options, const ModelConfig& config) {
  ParallelOptions parallel = options.parallel;
  if (options.format == RankFormat::kDeepseek && parallel.tp && config.n_routed_experts != 0) {
    parallel.ep = parallel.tp;
  }
  return parallel;
}

bool KeepsMtp(const ReshardOptions& options) {
  return options.keep_mtp.value_or(options.format != RankFormat::kDeepseek);
}

Slicing SlicingOf(const OpenedModel& model, const std::vector<ScaledWeight>& scaled,
                  const Topology& topology, const ReshardOptions& options) {
  SlicingOptions slicing;
  slicing.on_misaligned = options.on_misaligned;
  slicing.keep_mtp = KeepsMtp(options);
  slicing.deepseek = options.format == RankFormat::kDeepseek;
  return PlanSlicing(model.catalog, model.config, scaled, topology, slicing);
}

// Ranks would share the tensors of another architecture by names that mean something else there.
// One rank holds the whole model, whatever it is.
void RequireKnownModel(const ModelConfig& config, const ParallelOptions& options) {
  if (config.known || CompleteSizes(options, config).world_size() == 1) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format(
          "config.json: {}, so which rank holds which part of which tensor is not "
          "known; models under the names of DeepSeek-V3 (R1, V3.1, V3.2, Kimi-K2, "
          "GLM-5) and DeepSeek-V4 can be resharded: model.layers.0.self_attn.o_proj.weight, "
          "model.layers.3.mlp.experts.0.gate_proj.weight",
          config.model_type.empty()
              ? std::string("model_type is missing")
              : fmt::format("the model_type {} is not one whose tensors are known "
                            "here",
                            QuoteForMessage(config.model_type))),
      {.file = "config.json", .tensor = {}});
}

// Whether an engine needs a map of where the experts are.
bool NeedsExpertLocation(const ReshardOptions& options, const ReshardPlan& reshard) {
  return reshard.placement &&
         (options.placement.kind != PlacementKind::kContiguous ||
          !options.placement.expert_load.empty() || reshard.topology.redundant_experts != 0);
}

std::vector<ScaledWeight> DequantizedOf(const std::vector<ScaledWeight>& scaled,
                                        const Slicing& slicing) {
  std::unordered_set<std::uint32_t> weights;
  for (const SlicedTensor& sliced : slicing.tensors) {
    if (sliced.to_bf16) weights.insert(sliced.tensor);
  }
  std::vector<ScaledWeight> dequantized;
  for (const ScaledWeight& pair : scaled) {
    if (weights.count(pair.weight) != 0) dequantized.push_back(pair);
  }
  return dequantized;
}

// Plans one command.
class Planner {
 public:
  Planner(const OpenedModel& model, const ReshardOptions& options, bool all_side_files)
      : model_(model), options_(options), all_side_files_(all_side_files) {}

  ReshardPlan Run() {
    CheckReshardOptions(options_);
    const ModelConfig& config = model_.config;
    reshard_.format = options_.format;
    reshard_.grouping = options_.grouping;
    reshard_.on_misaligned = options_.on_misaligned;
    const ParallelOptions parallel = ParallelOf(options_, config);
    RequireKnownModel(config, parallel);
    reshard_.topology = PlanTopology(parallel, config);
    reshard_.placement = PlacementOf(options_.placement, reshard_.topology, config);
    if (reshard_.placement) {
      reshard_.expert_load =
          ExpectedLoad(options_.placement, reshard_.topology, config, *reshard_.placement);
    }
    ScaledWeights scaled = FindScaledWeights(model_.catalog, config);
    const std::vector<ScaledWeight> sliceable = SliceableWeights(model_.catalog, config, scaled);
    RequireWholeForms(scaled, sliceable);
    formats::RequireNoErrors(scaled.findings,
                             {"fault of weights and scales", "faults of weights and scales"});
    reshard_.slicing = SlicingOf(model_, sliceable, reshard_.topology, options_);
    const Origins origins(model_, sliceable, reshard_.slicing);
    reshard_.rules = origins.rules();
    reshard_.dequantized = DequantizedOf(scaled.pairs, reshard_.slicing);
    const SharedModel shared{model_, reshard_.topology, reshard_.placement, reshard_.slicing,
                             origins};
    MakeTensors(shared);
    reshard_.ranks = RankReports(shared, reshard_.tensors);
    RankFiles files = PlanRankFiles(shared, reshard_.tensors, options_.format, options_.grouping,
                                    options_.max_shard_bytes);
    reshard_.files_of_rank = std::move(files.files_of_rank);
    reshard_.plan.files = std::move(files.files);
    CompletePlan();
    return std::move(reshard_);
  }

 private:
  // Weights in forms that cannot be cut go to ranks that hold their module whole. The deepseek
  // format knows no other forms than FP8.
  void RequireWholeForms(const ScaledWeights& scaled,
                         const std::vector<ScaledWeight>& sliceable) const {
    const std::string_view prefix = FindNamePrefix(model_.catalog);
    const ScaleMap cut(sliceable, model_.catalog.tensors().size());
    for (const formats::Finding& form : scaled.unsupported) {
      const std::uint32_t position = model_.catalog.Find(form.tensor);
      const bool can_be_cut = position != Catalog::kNone && cut.OfWeight(position) != nullptr;
      if (can_be_cut && options_.format != RankFormat::kDeepseek) continue;
      const TensorPlace place = PlaceOf(form.tensor, prefix, model_.config);
      const std::uint64_t ways = WaysOf(place.kind, reshard_.topology);
      if (ways == 1) continue;
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("{}: {} ranks divide its module, and how this form is cut {}; only BF16, F16 "
                      "and F32 weights are cut, and FP8, INT8, INT4 and FP4 with their scales{}",
                      form.message, ways,
                      can_be_cut ? "is not known to the deepseek format, which has FP8 alone"
                                 : "is not known here",
                      place.kind == ModuleKind::kRoutedExpert
                          ? fmt::format(". With --ep {} experts stay whole",
                                        reshard_.topology.ranks_per_stage())
                          : ""),
          {form.file, form.tensor});
    }
  }

  void MakeTensors(const SharedModel& shared) {
    reshard_.dropped = reshard_.slicing.dropped;
    switch (options_.format) {
      case RankFormat::kHfRank:
        reshard_.tensors = TensorsByName(shared, TensorNaming::kHuggingFace);
        break;
      case RankFormat::kDeepseek:
        reshard_.tensors = TensorsByName(shared, TensorNaming::kDeepseek);
        break;
      case RankFormat::kKeys: {
        std::vector<std::string> untaken;
        const std::string file = options_.keys.string();
        keys_text_ = formats::ReadSmallFile(options_.keys, kMaxKeysFileBytes);
        reshard_.tensors = TensorsByKey(shared, ParseKeysFile(keys_text_, file), file, untaken);
        if (!untaken.empty()) {
          reshard_.warnings.push_back(
              {formats::Severity::kWarning, "unused-tensor", file, untaken.front(),
               fmt::format(
                   "{}: no key takes tensor {}{}; what no key takes is not written",
                   formats::ShownPath(file), QuoteForMessage(untaken.front()),
                   untaken.size() == 1 ? "" : fmt::format(", and {} others", untaken.size() - 1))});
        }
        reshard_.dropped.insert(reshard_.dropped.end(), untaken.begin(), untaken.end());
        break;
      }
    }
  }

  void CompletePlan() {
    Plan& plan = reshard_.plan;
    plan.recipe = kReshard;
    plan.shared_reads = true;
    if (model_.ranks) plan.source_digests = model_.ranks->digests;
    AddOptions();
    AddSideFiles();
  }

  // Everything that decides bytes, whatever the model's defaults are.
  void AddOptions() {
    std::vector<PlanOption>& list = reshard_.plan.options;
    const auto add_text = [&](const char* name, std::string_view value) {
      list.push_back(TextOption(name, value));
    };
    const auto add_number = [&](const char* name, std::uint64_t value) {
      list.push_back(NumberOption(name, value));
    };
    const Topology& topology = reshard_.topology;
    add_text("format", FormatName(options_.format));
    add_text("grouping", GroupingName(options_.grouping));
    add_number("tp", topology.tp);
    add_number("ep", topology.ep);
    add_number("dp", topology.dp);
    add_number("pp", topology.pp);
    add_number("dense_tp", topology.dense_tp);
    add_number("shared_expert_tp", topology.shared_expert_tp);
    add_number("embed_tp", topology.embed_tp);
    add_number("redundant_experts", topology.redundant_experts);
    add_text("ep_placement", PlacementName(options_.placement.kind));
    // Of what a placement, a load or the counting of experts came to.
    if (reshard_.placement) {
      add_text("expert_location_xxh3_128",
               formats::Xxh3Hex(ExpertLocationText(*reshard_.placement)));
    }
    if (options_.format == RankFormat::kKeys) {
      add_text("keys_xxh3_128", formats::Xxh3Hex(keys_text_));
    }
    add_text("on_misaligned", OnMisalignedName(options_.on_misaligned));
    add_text("mtp", KeepsMtp(options_) ? "keep" : "drop");
    add_number("max_shard_size", options_.max_shard_bytes);
  }

  void AddSideFiles() {
    std::vector<PlannedSideFile>& side_files = reshard_.plan.side_files;
    const bool has_mtp = std::any_of(
        reshard_.tensors.begin(), reshard_.tensors.end(), [&](const RankTensor& tensor) {
          return reshard_.slicing.tensors[tensor.parts.front().sliced].place.mtp;
        });
    const std::string config =
        ConfigForRanks(model_.config_text, model_.config, reshard_.slicing, has_mtp);
    const bool tells_location = NeedsExpertLocation(options_, reshard_);
    const Slicing& slicing = reshard_.slicing;
    PlanSideFiles(
        model_, config,
        {.all = all_side_files_,
         .changes_quantization = !slicing.bf16_modules.empty() || slicing.recut_block.has_value()},
        reshard_.plan);
    for (const PlannedSideFile& side : side_files) {
      if (tells_location && side.name == kExpertLocationName) {
        throw Error(ErrorCode::kBadInput,
                    fmt::format("{}: the result needs this name for a file of its own; rename the "
                                "source's",
                                formats::ShownPath(side.name)),
                    {side.name, ""});
      }
    }
    if (tells_location) {
      side_files.push_back({kExpertLocationName, {}, ExpertLocationText(*reshard_.placement)});
    }
    std::sort(side_files.begin(), side_files.end(),
              [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
  }

  const OpenedModel& model_;
  const ReshardOptions& options_;
  const bool all_side_files_;
  ReshardPlan reshard_;
  std::string keys_text_;
};

}  // namespace

void CheckReshardOptions(const ReshardOptions& options) {
  if (options.max_shard_bytes == 0) {
    FailUsage("--max-shard-size 0: no tensor fits; give the bytes of a file, such as 5Gi");
  }
  const bool has_keys = options.format == RankFormat::kKeys;
  if (options.grouping == RankGrouping::kComponent && options.format != RankFormat::kHfRank) {
    FailUsage(
        fmt::format("--grouping component: engines that read --format {} expect one set of "
                    "files for each rank; leave out --grouping, or choose --format hf-rank",
                    FormatName(options.format)));
  }
  if (has_keys && options.keys.empty()) {
    FailUsage("--format keys: the file is missing; give --format keys:FILE");
  }
  if (options.format == RankFormat::kDeepseek) CheckDeepseek(options);
  for (const auto& [first, last] : options.ranks) {
    if (first <= last) continue;
    FailUsage(fmt::format("--ranks {}-{}: the first rank is behind the last; give them in order",
                          first, last));
  }
}

ReshardPlan PlanReshard(const OpenedModel& model, const ReshardOptions& options,
                        bool all_side_files) {
  return Planner(model, options, all_side_files).Run();
}

std::vector<std::size_t> FilesOfRanks(
    const ReshardPlan& reshard, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& ranks) {
  const std::uint64_t world_size = reshard.topology.world_size();
  std::vector<bool> wanted(reshard.plan.files.size(), false);
  for (const auto& [first, last] : ranks) {
    if (last >= world_size) {
      FailUsage(
          fmt::format("--ranks {}-{}: there is no rank {}, for these sizes give {} rank{}; "
                      "name ranks from 0 to {}",
                      first, last, last, world_size, world_size == 1 ? "" : "s", world_size - 1));
    }
    for (std::uint64_t rank = first; rank <= last; ++rank) {
      for (const std::uint32_t file : reshard.files_of_rank[rank]) wanted[file] = true;
    }
  }
  std::vector<std::size_t> files;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) files.push_back(i);
  }
  return files;
}

}  // namespace dsv3::convert
