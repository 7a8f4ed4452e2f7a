#include "convert/open/open_model.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/training_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_check.h"
#include "convert/open/completeness.h"
#include "convert/open/demo_model.h"
#include "convert/open/gguf_model.h"
#include "convert/open/modelopt_description.h"
#include "convert/open/packed_model.h"
#include "convert/open/pull_weights_model.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_model.h"
#include "convert/open/training_model.h"
#include "convert/open/training_place.h"
#include "convert/open/unfinished.h"
#include "convert/open/unlisted_tensors.h"
#include "convert/parallel/slicing.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/io/existence.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::kConfigName;
using formats::kMaxConfigBytes;

[[noreturn]] void FailNoConfig(const formats::CheckpointFiles& files, bool takes_config) {
  const fs::path path = files.directory / kConfigName;
  // If something else has that name, reading it gives the error that describes it.
  if (formats::EntryExists(path)) formats::ReadSmallFile(path, 0);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: there is no config.json, which gives the block size of the scales; "
                          "copy it from where these weights came from{}",
                          formats::ShownPath(files.directory),
                          takes_config ? ", or name it with --config FILE" : ""),
              {kConfigName, ""});
}

// Throws the first error that comparing the tensors with the config found.
void RequireNoFaults(const formats::Findings& findings) {
  formats::RequireNoErrors(findings, {"tensor is missing or of another shape",
                                      "tensors are missing or of another shape"});
}

}  // namespace

bool IsReservedName(std::string_view name) {
  return name == formats::kManifestName || name == formats::kShardIndexName ||
         name.ends_with(".partial") || name.starts_with(".dsv3-") ||
         name.find("/.dsv3-") != std::string_view::npos;
}

void RequireModel(const ModelConfig& config, const Catalog& catalog, formats::Findings& warnings) {
  const formats::Findings findings = CheckAgainstModel(config, catalog);
  RequireNoFaults(findings);
  warnings.insert(warnings.end(), findings.begin(), findings.end());
}

void RequireUsed(const OpenOptions& options, const OpenedModel& model) {
  const bool training = !model.training.stack.empty();
  if (model.gguf && (options.from || !options.config.empty())) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--{}: a GGUF file says itself what its tensors are; leave the option "
                            "out",
                            options.from ? "from" : "config"));
  }
  if (!training && options.from && *options.from != Stack::kHuggingFace) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: this is a checkpoint with Hugging Face names, not one of {}; leave "
                    "out --from",
                    formats::ShownPath(model.directory), StackName(*options.from)),
        {model.directory.string(), ""});
  }
  if (!options.config.empty() && !model.config_given) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--config: {} has a config.json of its own, which is taken; leave the "
                            "option out",
                            formats::ShownPath(model.directory)));
  }
}

namespace {

using Faults = OpenOptions::Faults;

// Where the config is: beside the files or, where there is none, what the options name.
fs::path ConfigPath(const formats::CheckpointFiles& files, const OpenOptions& options,
                    OpenedModel& model) {
  const fs::path path = files.directory / kConfigName;
  model.config_given = !options.config.empty() && !formats::EntryExists(path);
  return model.config_given ? options.config : path;
}

// The caller judges faults of the config; an error of the disk is thrown but with kReportAll.
void ReadConfig(const formats::CheckpointFiles& files, const OpenOptions& options,
                OpenedModel& model) {
  const fs::path path = ConfigPath(files, options, model);
  model.has_config = formats::EntryExists(path);
  if (!model.has_config) return;
  try {
    std::string text = formats::ReadSmallFile(path, kMaxConfigBytes);
    model.config = ParseModelConfig(text, model.config_given ? path.string() : kConfigName);
    model.config.modelopt = ReadModelOptDescription(files.directory);
    model.config_text = std::move(text);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo && options.faults == Faults::kReport) throw;
    model.config_fault = error;
  }
}

// Finds unfinished conversions and downloads in the directory that was named; sets that, too.
void FindUnfinishedIn(const fs::path& input, OpenedModel& model) {
  formats::CheckpointLocation location = formats::LocateCheckpoint(input);
  model.directory = std::move(location.directory);
  if (location.file_name) return;
  model.unfinished = FindUnfinished(model.directory);
  model.half_made = HasUnfinishedConversion(model.unfinished);
}

void TakeMissingMtp(OpenedModel& model) {
  ModelConfig& config = model.config;
  if (!config.known || config.is_nextn || config.num_nextn_predict_layers == 0) return;
  const std::string_view prefix = FindNamePrefix(model.catalog);
  for (const CatalogTensor& tensor : model.catalog.tensors()) {
    if (PlaceOf(tensor.name, prefix, config).mtp) return;
  }
  model.missing_mtp_layers = std::exchange(config.num_nextn_predict_layers, 0);
}

// Adds the marks of downloads: what they keep may be a file that the checkpoint should have.
void NoteUnfinishedDownloads(const fs::path& input, formats::CheckpointFiles& files) {
  std::error_code ignored;
  if (!fs::is_directory(input, ignored)) return;
  for (formats::Finding& finding : FindUnfinished(files.directory)) {
    if (finding.kind == kUnfinishedDownload) files.findings.push_back(std::move(finding));
  }
}

// Opens files for a caller that reports faults.
formats::CheckpointFiles OpenFaultyFiles(const fs::path& input, const OpenOptions& options,
                                         const OpenedModel& model) {
  try {
    return formats::OpenCheckpointFiles(input, options.freed,
                                        options.faults == Faults::kReportAll
                                            ? formats::FaultyIndex::kReport
                                            : formats::FaultyIndex::kThrow);
  } catch (const Error& error) {
    if (model.half_made && error.code() == ErrorCode::kBadInput) RefuseUnfinishedConversion(input);
    throw;
  }
}

void TakeFiles(formats::CheckpointFiles& files, OpenedModel& model) {
  model.directory = files.directory;
  model.form = files.form;
  using Form = formats::CheckpointFiles::Form;
  model.needs_index = files.form != Form::kSingle || files.shards[0].name != "model.safetensors";
  model.side_files = std::move(files.side_files);
  if (model.config_given) {
    model.side_files.emplace_back(kConfigName);
    std::sort(model.side_files.begin(), model.side_files.end());
  }
  model.left_behind = std::move(files.left_behind);
  model.findings = std::move(files.findings);
}

// A checkpoint whose faults are reported. `model` has what FindUnfinishedIn found.
OpenedModel OpenFaultyCheckpoint(const fs::path& input, const OpenOptions& options,
                                 OpenedModel model) {
  formats::CheckpointFiles files = OpenFaultyFiles(input, options, model);
  NameUnlistedHolders(files, files.findings);
  model.unlisted = FindUnlistedTensors(files);
  std::error_code ignored;
  if (fs::is_directory(input, ignored)) model.missing_files = FindMissingFiles(files);
  model.second_copies = formats::DropSecondCopies(files);
  ReadConfig(files, options, model);
  TakeFiles(files, model);
  model.catalog = Catalog::FromCheckpoint(files);
  model.freed = options.freed;
  if (options.faults == Faults::kReportAll) {
    model.files = std::make_shared<const formats::CheckpointFiles>(std::move(files));
  }
  return model;
}

// An index may name any file. A shard keeps its name in the output, where some names are taken:
// throws Error for these.
void CheckShardNames(const formats::CheckpointFiles& files) {
  for (const formats::ShardFile& shard : files.shards) {
    if (!IsReservedName(shard.name)) continue;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: a shard cannot have this name, which the output needs for files "
                            "of dsv3's own; rename the shard and correct the index",
                            formats::ShownPath(shard.name)),
                {shard.name, ""});
  }
}

// What a trainer saved as safetensors under its own names; nothing for other files.
std::optional<TrainingPlace> TrainingPlaceOf(const formats::CheckpointFiles& files,
                                             const OpenOptions& options) {
  std::vector<std::string_view> names;
  for (const formats::ShardFile& shard : files.shards) {
    for (const formats::SafetensorsTensor& tensor : shard.header.tensors) {
      names.push_back(tensor.name);
    }
  }
  if (!AreNamesOfTraining(names)) return std::nullopt;
  TrainingPlace place{TrainingPlace::Kind::kSafetensors, files.directory, {}, options.freed};
  for (const formats::ShardFile& shard : files.shards) place.files.push_back(shard.name);
  return place;
}

OpenedModel OpenCheckpoint(const fs::path& input, const OpenOptions& options) {
  OpenedModel model;
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(input, options.freed);
  NameUnlistedHolders(files, files.findings);
  formats::RequireConsistent(files);
  CheckShardNames(files);
  if (options.takes_config) {
    if (const auto place = TrainingPlaceOf(files, options)) return OpenTraining(*place, options);
  }
  const fs::path config = ConfigPath(files, options, model);
  if (!model.config_given && !files.HasConfig()) FailNoConfig(files, options.takes_config);
  model.config_text = formats::ReadSmallFile(config, kMaxConfigBytes);
  model.config =
      ParseModelConfig(model.config_text, model.config_given ? config.string() : kConfigName);
  model.config.modelopt = ReadModelOptDescription(files.directory);
  model.has_config = true;
  NoteUnfinishedDownloads(input, files);
  TakeFiles(files, model);
  model.catalog = Catalog::FromCheckpoint(files);
  model.freed = options.freed;
  if (options.mtp_may_be_missing) TakeMissingMtp(model);
  formats::Findings compared = CheckAgainstModel(model.config, model.catalog);
  NameUnlistedHolders(files, compared);
  RequireNoFaults(compared);
  std::move(compared.begin(), compared.end(), std::back_inserter(model.findings));
  return model;
}

void TakeSideFiles(const formats::RankLayout& layout, OpenedModel& model) {
  for (const formats::LayoutSideFile& side : layout.side_files) {
    if (const auto kind = formats::KindOfLeftBehind(side.name)) {
      model.left_behind.push_back({side.name, *kind, side.bytes});
    } else {
      model.side_files.push_back(side.name);
    }
  }
  // config.json is always there: its text is made from layout.json.
  model.side_files.emplace_back(kConfigName);
  std::sort(model.side_files.begin(), model.side_files.end());
  model.side_files.erase(std::unique(model.side_files.begin(), model.side_files.end()),
                         model.side_files.end());
}

void TakeRankModel(RankModel opened, OpenedModel& model) {
  model.form = formats::CheckpointFiles::Form::kIndexed;
  model.needs_index = opened.shards.index.has_value();
  model.has_config = true;
  model.config_text = std::move(opened.config_text);
  model.config = std::move(opened.config);
  model.catalog = std::move(opened.catalog);
  TakeSideFiles(opened.shards.layout, model);
  model.ranks = std::make_shared<const RankShards>(std::move(opened.shards));
  model.assembled = model.ranks;
}

// `model` has what FindUnfinishedIn found, but with kThrow.
OpenedModel OpenRanks(const fs::path& input, const OpenOptions& options, OpenedModel model) {
  model.directory = fs::absolute(input);
  RankDirectory ranks = OpenRankDirectory(model.directory, options.freed);
  model.findings = std::move(ranks.warnings);
  TakeRankModel(AssembleRankModel(ranks), model);
  // Where tensors were dropped, the config may predict tensors that are not there.
  if (options.mtp_may_be_missing) TakeMissingMtp(model);
  if (model.ranks->layout.dropped.empty()) {
    RequireModel(model.config, model.catalog, model.findings);
  }
  return model;
}

// Rank shards whose faults are reported. `model` has what FindUnfinishedIn found.
OpenedModel OpenFaultyRanks(const fs::path& input, OpenedModel model) {
  model.directory = fs::absolute(input);
  RankDirectory ranks;
  try {
    ranks = OpenRankDirectory(model.directory, model.findings);
    const bool sound =
        std::none_of(model.findings.begin(), model.findings.end(),
                     [](const auto& f) { return f.severity == formats::Severity::kError; });
    std::move(ranks.warnings.begin(), ranks.warnings.end(), std::back_inserter(model.findings));
    // Slices of files that are not those of the layout say nothing about it.
    if (sound) {
      TakeRankModel(AssembleRankModel(ranks), model);
      return model;
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    model.fault = error;
  }
  RankShards known;
  known.layout = std::move(ranks.layout);
  known.stored = std::move(ranks.catalog);
  model.ranks = std::make_shared<const RankShards>(std::move(known));
  return model;
}

// Opens a model that is put together of other files than shards by `open`; with kReportAll its
// fault is a member.
template <typename Open>
OpenedModel OpenAssembled(const fs::path& directory, const OpenOptions& options, Open&& open) {
  try {
    return open();
  } catch (const Error& error) {
    if (options.faults != Faults::kReportAll || error.code() != ErrorCode::kBadInput) throw;
    OpenedModel model;
    model.directory = directory;
    model.fault = error;
    return model;
  }
}

}  // namespace

OpenedModel OpenModel(const fs::path& input, const OpenOptions& options) {
  if (options.gguf != OpenOptions::Gguf::kRefuse && formats::IsGgufFile(input)) {
    return OpenGguf(input, options);
  }
  const bool report_all = options.faults == Faults::kReportAll;
  OpenedModel begun;
  if (options.faults == Faults::kThrow) {
    RefuseUnfinishedConversion(input);
  } else {
    FindUnfinishedIn(input, begun);
  }
  if (report_all && begun.half_made) return begun;
  RefuseDemoFile(input);
  if (IsPackedAlone(input)) {
    return OpenPackedCheckpoint(input, options.base, [&](std::vector<formats::FreedShard> heads) {
      OpenOptions by_heads = options;
      by_heads.freed = std::move(heads);
      OpenedModel model = options.faults == Faults::kThrow
                              ? OpenCheckpoint(input, by_heads)
                              : OpenFaultyCheckpoint(input, by_heads, std::move(begun));
      model.freed = options.freed;
      return model;
    });
  }
  if (IsPullDirectory(input)) return OpenPullWeights(input, options);
  if (IsDemoDirectory(input, options.freed)) {
    RequireDemoConfig(input, options);
    return OpenAssembled(fs::absolute(input), options, [&] { return OpenDemo(input, options); });
  }
  if (const auto place = FindTraining(input, options.freed)) {
    return OpenAssembled(place->directory, options, [&] { return OpenTraining(*place, options); });
  }
  if (IsRankDirectory(input)) {
    return report_all ? OpenFaultyRanks(input, std::move(begun))
                      : OpenRanks(input, options, std::move(begun));
  }
  return options.faults == Faults::kThrow ? OpenCheckpoint(input, options)
                                          : OpenFaultyCheckpoint(input, options, std::move(begun));
}

ModelTensors TensorsOf(const OpenedModel& model) { return TensorsOf(model, nullptr); }

ModelTensors TensorsOf(const OpenedModel& model, const AssembledModel* appended) {
  ModelTensors tensors{model.catalog, {}, model.directory};
  const auto add = [&](const AssembledModel& assembled, std::uint32_t first) {
    tensors.derived.push_back({&assembled.stored, assembled.origins, first, &assembled.digests,
                               assembled.copies,
                               assembled.checksums.of.empty() ? nullptr : &assembled.checksums});
  };
  if (model.assembled) add(*model.assembled, 0);
  if (appended != nullptr) add(*appended, model.catalog.tensors_end());
  return tensors;
}

ModelTensors StoredTensorsOf(const OpenedModel& model) {
  return {model.assembled ? model.assembled->stored : model.catalog, {}, model.directory};
}

ExpressionPtr OriginOf(const OpenedModel& model, std::uint32_t tensor) {
  return model.assembled ? model.assembled->origins[tensor] : Copy(model.catalog, tensor);
}

}  // namespace dsv3::convert
