#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "cli/balance_svg.h"
#include "cli/commands.h"
#include "cli/conversion_report.h"
#include "cli/output_file.h"
#include "cli/rank_list.h"
#include "cli/reshard_report.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/job/process_messages.h"
#include "convert/recipes/reshard_job.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::ParallelOptions;
using convert::ParallelPreset;

struct Options {
  std::string input;
  std::string output;
  std::optional<ParallelPreset> preset;
  ParallelOptions parallel;  // as given
  std::optional<std::uint64_t> redundant_experts;
  std::optional<std::uint64_t> nodes;
  std::string expert_load;
  std::string balance_svg;
  convert::ReshardOptions reshard;  // all else
  convert::RunOptions run;
};

// The sizes of the preset, if any, where the call gives no others.
ParallelOptions ParallelOf(const Options& options) {
  ParallelOptions sizes = options.preset ? convert::OptionsOf(*options.preset) : ParallelOptions();
  const ParallelOptions& given = options.parallel;
  // The data parallel size of a preset follows from its other sizes.
  if (given.tp || given.ep) sizes.dp.reset();
  const auto take = [](std::optional<std::uint64_t>& size,
                       const std::optional<std::uint64_t>& other) {
    if (other) size = other;
  };
  take(sizes.tp, given.tp);
  take(sizes.ep, given.ep);
  take(sizes.dp, given.dp);
  take(sizes.pp, given.pp);
  take(sizes.dense_tp, given.dense_tp);
  take(sizes.shared_expert_tp, given.shared_expert_tp);
  take(sizes.embed_tp, given.embed_tp);
  if (options.redundant_experts) sizes.redundant_experts = *options.redundant_experts;
  return sizes;
}

// Throws Error for a picture that could not be drawn, or would take the place of another file.
void CheckPicture(const Options& options) {
  CheckOutputFile("balance-svg", options.balance_svg, OutputContent::kSvg);
  const std::filesystem::path picture = options.balance_svg;
  std::error_code error;
  if (picture.empty() || picture.extension() == ".svg" ||
      !std::filesystem::equivalent(picture.has_parent_path() ? picture.parent_path() : ".",
                                   options.output, error)) {
    return;
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("--balance-svg: {}: it lies in OUT, where a file of the shards may have "
                          "this name; give it a name that ends with .svg, or another directory",
                          formats::ShownPath(picture)),
              {.file = options.balance_svg, .tensor = {}});
}

convert::ReshardRequest RequestOf(const Options& options) {
  if (!options.parallel.tp && !options.parallel.ep && !options.preset) {
    throw Error(ErrorCode::kUsage,
                "none of --tp, --ep and --preset is given; --tp 8 cuts everything 8 ways, --tp 4 "
                "--ep 32 spreads the experts over 32 ranks of which 4 share an attention layer, "
                "and --preset deepseek-prefill adds 32 redundant experts to that");
  }
  if (options.nodes && options.expert_load.empty()) {
    throw Error(ErrorCode::kUsage,
                "--nodes says how --expert-load is balanced and has no effect without it; add "
                "--expert-load FILE, or leave --nodes out");
  }
  convert::ReshardRequest request;
  request.input = options.input;
  request.output = options.output;
  request.options = options.reshard;
  request.options.parallel = ParallelOf(options);
  request.options.placement.expert_load = options.expert_load;
  request.options.placement.nodes = options.nodes.value_or(1);
  request.run = options.run;
  return request;
}

std::string Run(const Options& options, CommandContext& context) {
  // Of several processes, and of several parts, one draws.
  const bool draws = !options.balance_svg.empty() && !convert::IsHelper(context.sharing) &&
                     (!options.run.part || options.run.part->index == 0);
  if (draws) CheckPicture(options);
  convert::ReshardRequest request = RequestOf(options);
  request.run.sharing = context.sharing;
  request.run.command = context.job_command;
  const convert::ReshardReport report =
      convert::Reshard(request, formats::PosixFileSystem(), context.progress, context.stop);
  WarnOfCounts(report.conversion, context.progress);
  if (draws) WriteOutputFile(options.balance_svg, BalanceSvg(report));
  return context.output.json ? ReshardReportJson(request, report, context.tool.name)
                             : ReshardReportText(request, report);
}

Option ParallelSize(std::string name, std::optional<std::uint64_t>* size, std::string help) {
  return Count(
      std::move(name), "N", kMostRanks, [size](std::uint64_t value) { *size = value; },
      std::move(help));
}

std::vector<Option> ParallelOptionTable(Options& options) {
  ParallelOptions* sizes = &options.parallel;
  std::vector<Option> table;
  table.push_back(
      ParallelSize("tp", &sizes->tp,
                   "Tensor parallel ranks: attention is cut this many ways by heads, and so are "
                   "all modules that no other option covers. 1 by default."));
  table.push_back(ParallelSize("ep", &sizes->ep,
                               "Expert parallel ranks: the routed experts are divided among this "
                               "many. 1 by default. It must divide the number of ranks of a stage; "
                               "where a stage has more ranks, several ranks share each expert."));
  table.push_back(ParallelSize("dp", &sizes->dp,
                               "Data parallel groups of attention, each of --tp ranks. By default "
                               "as many as --ep needs: --ep / --tp, at least 1."));
  table.push_back(ParallelSize("pp", &sizes->pp,
                               "Pipeline stages, 1 by default. The embedding is in the first one, "
                               "norm, head and MTP layers in the last."));
  table.push_back(ParallelSize("dense-tp", &sizes->dense_tp,
                               "How many ways the MLPs of dense layers are cut; as --tp by "
                               "default, 1 in the presets."));
  table.push_back(ParallelSize("shared-expert-tp", &sizes->shared_expert_tp,
                               "How many ways shared experts are cut; as --tp by default, 1 in "
                               "the presets."));
  table.push_back(ParallelSize("embed-tp", &sizes->embed_tp,
                               "How many ways embedding and head are cut by rows of the "
                               "vocabulary, padded to a multiple of 64; as --tp by default."));
  table.push_back(OneOf<ParallelPreset>(
      "preset", "NAME",
      {{"deepseek-prefill", ParallelPreset::kDeepseekPrefill, "TP 4, DP 8, EP 32, 32 redundant"},
       {"deepseek-decode", ParallelPreset::kDeepseekDecode, "TP 4, DP 80, EP 320, 64 redundant"}},
      &options.preset,
      "A deployment of DeepSeek's technical report: deepseek-prefill (TP 4, DP 8, EP 32, 32 "
      "redundant experts) or deepseek-decode (TP 4, DP 80, EP 320, 64 redundant experts), dense "
      "layers and shared experts whole in both. Sizes given by other options override those of the "
      "preset."));
  return table;
}

constexpr std::string_view kKeysPrefix = "keys:";

convert::RankFormat ParseFormat(const std::string& text, std::filesystem::path* keys) {
  if (text == "hf-rank") return convert::RankFormat::kHfRank;
  if (text == "deepseek") return convert::RankFormat::kDeepseek;
  if (!text.starts_with(kKeysPrefix) || text.size() == kKeysPrefix.size()) {
    throw BadValue("give hf-rank, deepseek or keys:FILE");
  }
  *keys = text.substr(kKeysPrefix.size());
  return convert::RankFormat::kKeys;
}

std::vector<Option> ExpertOptionTable(Options& options) {
  using convert::PlacementKind;
  constexpr std::uint64_t kMostRedundant = 1'000'000;
  std::vector<Option> table;
  Option placement;
  placement.name = "ep-placement";
  placement.value_name = "PLACEMENT";
  placement.choices = {{"contiguous", "neighbours together"}, {"round-robin", "dealt out in turn"}};
  placement.open = true;
  placement.path = PathUse::kInputFile;
  placement.help =
      "Which experts a rank has: contiguous (default; neighbours), round-robin (dealt out in turn) "
      "or a FILE of JSON with physical_to_logical_map, [layers][physical experts], as SGLang's "
      "--init-expert-location reads.";
  placement.set = [target = &options.reshard.placement](const std::string& text) {
    if (text.empty()) throw BadValue("give contiguous, round-robin or a FILE");
    target->kind = text == "contiguous"    ? PlacementKind::kContiguous
                   : text == "round-robin" ? PlacementKind::kRoundRobin
                                           : PlacementKind::kFile;
    target->file = target->kind == PlacementKind::kFile ? text : "";
  };
  table.push_back(std::move(placement));
  table.push_back(Number(
      "redundant-experts", "N", kMostRedundant, "",
      [&options](std::uint64_t value) { options.redundant_experts = value; },
      "Replicas of experts beyond one of each, 0 by default. Without a load physical expert p is "
      "logical expert p modulo their number."));
  table.push_back(
      PathOption("expert-load", "FILE", PathUse::kInputFile, &options.expert_load,
                 "Place and replicate the experts by load, with DeepSeek's EPLB: a FILE of "
                 "JSON with logical_count, [layers][experts]. The result is also written to "
                 "expert_location.json."));
  table.push_back(Count(
      "nodes", "N", kMostRanks, [&options](std::uint64_t value) { options.nodes = value; },
      "The number of nodes that the expert parallel ranks run on, for --expert-load; 1 by "
      "default."));
  return table;
}

std::vector<Option> LayoutOptionTable(Options& options) {
  using convert::OnMisaligned;
  convert::ReshardOptions* reshard = &options.reshard;
  std::vector<Option> table;
  Option format;
  format.name = "format";
  format.value_name = "FORMAT";
  format.choices = {{"hf-rank", "Hugging Face names"}, {"deepseek", "the official demo's files"}};
  format.open = true;
  format.path = PathUse::kInputFile;
  format.path_prefix = kKeysPrefix;
  format.help =
      "Form of the shards: hf-rank (default; Hugging Face names and local shapes in "
      "model-rank-R-part-P.safetensors, as vLLM and SGLang name them), deepseek (the files of "
      "DeepSeek's convert.py, modelR-mpT.safetensors, byte for byte) or keys:FILE (names and "
      "shapes that FILE lists, for loaders of an engine's own state).";
  format.set = [reshard](const std::string& text) {
    reshard->format = ParseFormat(text, &reshard->keys);
  };
  table.push_back(std::move(format));
  table.push_back(OneOf<convert::RankGrouping>(
      "grouping", "GROUPING",
      {{"rank", convert::RankGrouping::kRank, "each rank has files of its own"},
       {"component", convert::RankGrouping::kComponent, "each slice is stored once"}},
      &reshard->grouping,
      "How slices are put into files: rank (default; the files of each rank are its own and hold "
      "all that it loads) or component (each distinct slice is stored once, and layout.json says "
      "which files a rank loads)."));
  table.push_back(Size("max-shard-size", &reshard->max_shard_bytes,
                       "Begin another part of a rank where this one would hold more bytes of "
                       "tensors, 5Gi by default."));
  table.push_back(OneOf<bool>(
      "mtp", "MODE",
      {{"keep", true, "cut MTP layers like others"}, {"drop", false, "leave MTP layers out"}},
      &reshard->keep_mtp,
      "Whether the output has the MTP layers: keep (default) or drop (default of --format "
      "deepseek)."));
  table.push_back(OneOf<OnMisaligned>(
      "on-misaligned", "ACTION",
      {{"error", OnMisaligned::kError, "stop and name the options that help"},
       {"replicate-module", OnMisaligned::kReplicateModule, "leave such a module whole"},
       {"subblock", OnMisaligned::kSubblock, "smaller blocks of scales"},
       {"bf16", OnMisaligned::kBF16, "dequantise such a module"}},
      &reshard->on_misaligned,
      "What to do where the boundary between two ranks falls inside an FP8 block: error (default), "
      "replicate-module (every rank holds the whole module), subblock (all scales are repeated for "
      "smaller blocks that fit, and the config says so) or bf16 (these modules become BF16 and are "
      "listed in modules_to_not_convert)."));
  Option ranks;
  ranks.name = "ranks";
  ranks.value_name = "LIST";
  ranks.of_one_run = true;
  ranks.help =
      "Make the files of these ranks only, such as 0-7 or 0,3,8-11, and read only what they need. "
      "The run that finds the files of all ranks complete writes layout.json.";
  ranks.set = [reshard](const std::string& text) { reshard->ranks = ParseRankList(text); };
  table.push_back(std::move(ranks));
  return table;
}

std::vector<Option> OptionTable(Options& options) {
  std::vector<Option> table = ParallelOptionTable(options);
  const auto append = [&table](std::vector<Option> more) {
    for (Option& option : more) table.push_back(std::move(option));
  };
  append(ExpertOptionTable(options));
  append(LayoutOptionTable(options));
  table.push_back(
      PathOption("balance-svg", "FILE", PathUse::kOutputFile, &options.balance_svg,
                 "Also draw the balance of the ranks, and which experts they hold, as a "
                 "picture. It is drawn in a dry run, too."));
  append(RunOptionTable(&options.run));
  append(PartOptionTable(&options.run));
  return table;
}

}  // namespace

Command ReshardCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.summary = "cut checkpoints into the shards of an engine's ranks, and merge them";
  command.description = {
      "Cuts the checkpoint IN, FP8 or BF16, into the shards of every rank of a deployment and "
      "writes them to OUT, with config, tokenizer and other side files, and layout.json, which "
      "says which slice of which tensor each file holds. Each byte of IN is read once, and the "
      "files of all ranks grow together, in memory that does not depend on the model. FP8 weights "
      "are cut with their scales and stay as they are.",
      "IN may also be a directory of rank shards, which is cut directly for other ranks. The "
      "command merge gives the original files back.",
      "Files appear in OUT under their names only when they are complete, layout.json after all "
      "shards. After an interruption of any kind the same command continues and gives the same "
      "bytes; on a finished OUT it checks sizes and headers and says that there is nothing to do."};
  command.arguments = {
      {"IN",
       "The checkpoint: a directory, a single safetensors file, or a model directory of the "
       "Hugging Face hub cache; or a directory of rank shards with its layout.json. A "
       "directory that is called merge is written ./merge.",
       &options->input},
      OutputArgument(&options->output)};
  command.options = OptionTable(*options);
  command.examples = {
      {"--tp 8 DeepSeek-V3 ranks", "Cut everything 8 ways"},
      {"--tp 4 --ep 32 DeepSeek-V3 ranks", "32 ranks of 8 experts a layer, in 8 groups of 4"},
      {"--preset deepseek-decode --dry-run --balance-svg balance.svg DeepSeek-V3 ranks",
       "See what 320 ranks would hold"},
      {"--tp 8 --ranks 0-3 DeepSeek-V3 ranks", "Make the files of one node of two"},
      {"--tp 16 ranks more-ranks", "Go from ranks to other ranks"},
      {"--tp 8 --format deepseek DeepSeek-V3 demo", "Make the files of DeepSeek's convert.py"}};
  StopAndContinue(command);
  command.run = [options](CommandContext& context) { return Run(*options, context); };
  return command;
}

}  // namespace dsv3::cli
