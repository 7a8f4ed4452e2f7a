#include "convert/open/open_model.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/open/completeness.h"
#include "convert/open/modelopt_description.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_model.h"
#include "convert/open/training_model.h"
#include "convert/open/training_place.h"
#include "convert/open/unfinished.h"
#include "convert/parallel/slicing.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
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
  std::error_code ignored;
  // If something else has that name, reading it gives the error that describes it.
  if (fs::exists(fs::symlink_status(path, ignored))) formats::ReadSmallFile(path, 0);
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

std::string ReadConfigText(const formats::CheckpointFiles& files) {
  if (!files.HasConfig()) FailNoConfig(files, false);
  return formats::ReadSmallFile(files.directory / kConfigName, kMaxConfigBytes);
}

void RequireUsed(const OpenOptions& options, const OpenedModel& model) {
  const bool training = !model.training.stack.empty();
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

// Where the config is: beside the files or, where there is none, what the options name.
fs::path ConfigPath(const formats::CheckpointFiles& files, const OpenOptions& options,
                    OpenedModel& model) {
  std::error_code ignored;
  const fs::path path = files.directory / kConfigName;
  model.config_given = !options.config.empty() && !fs::exists(fs::symlink_status(path, ignored));
  return model.config_given ? options.config : path;
}

// The caller judges faults of the config; an error of the disk is thrown.
void ReadConfig(const formats::CheckpointFiles& files, const OpenOptions& options,
                OpenedModel& model) {
  std::error_code ignored;
  const fs::path path = ConfigPath(files, options, model);
  model.has_config = fs::exists(fs::symlink_status(path, ignored));
  if (!model.has_config) return;
  try {
    std::string text = formats::ReadSmallFile(path, kMaxConfigBytes);
    model.config = ParseModelConfig(text, kConfigName);
    model.config.modelopt = ReadModelOptDescription(files.directory);
    model.config_text = std::move(text);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    model.config_fault = error;
  }
}

// Finds unfinished conversions and downloads in the directory that was named.
void FindUnfinishedIn(const fs::path& input, OpenedModel& model) {
  const formats::CheckpointLocation location = formats::LocateCheckpoint(input);
  if (location.file_name) return;
  model.unfinished = FindUnfinished(location.directory);
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

OpenedModel OpenCheckpoint(const fs::path& input, const OpenOptions& options) {
  const bool strict = options.faults == OpenOptions::Faults::kThrow;
  OpenedModel model;
  if (!strict) FindUnfinishedIn(input, model);
  formats::CheckpointFiles files;
  try {
    files = formats::OpenCheckpointFiles(input, options.freed);
  } catch (const Error& error) {
    if (model.half_made && error.code() == ErrorCode::kBadInput) RefuseUnfinishedConversion(input);
    throw;
  }
  model.directory = files.directory;
  model.form = files.form;
  if (strict) {
    NameUnlistedHolders(files, files.findings);
    formats::RequireConsistent(files);
    CheckShardNames(files);
    const fs::path config = ConfigPath(files, options, model);
    if (!model.config_given && !files.HasConfig()) FailNoConfig(files, options.takes_config);
    model.config_text = formats::ReadSmallFile(config, kMaxConfigBytes);
    model.config =
        ParseModelConfig(model.config_text, model.config_given ? config.string() : kConfigName);
    model.config.modelopt = ReadModelOptDescription(files.directory);
    model.has_config = true;
    NoteUnfinishedDownloads(input, files);
  } else {
    NameUnlistedHolders(files, files.findings);
    model.unlisted = FindUnlistedTensors(files);
    formats::DropSecondCopies(files);
    ReadConfig(files, options, model);
    std::error_code ignored;
    if (fs::is_directory(input, ignored)) model.missing_files = FindMissingFiles(files);
  }
  using Form = formats::CheckpointFiles::Form;
  model.needs_index = files.form != Form::kSingle || files.shards[0].name != "model.safetensors";
  model.side_files = std::move(files.side_files);
  if (model.config_given) {
    model.side_files.emplace_back(kConfigName);
    std::sort(model.side_files.begin(), model.side_files.end());
  }
  model.left_behind = std::move(files.left_behind);
  model.findings = std::move(files.findings);
  model.catalog = Catalog::FromCheckpoint(files);
  model.freed = options.freed;
  if (!strict) return model;
  if (options.mtp_may_be_missing) TakeMissingMtp(model);
  formats::Findings compared = CheckAgainstModel(model.config, model.catalog);
  NameUnlistedHolders(files, compared);
  RequireNoFaults(compared);
  std::move(compared.begin(), compared.end(), std::back_inserter(model.findings));
  return model;
}

OpenedModel OpenRanks(const fs::path& input, const OpenOptions& options) {
  RankModel opened = AssembleRankModel(OpenRankDirectory(fs::absolute(input)));
  OpenedModel model;
  if (options.faults == OpenOptions::Faults::kReport) FindUnfinishedIn(input, model);
  model.directory = std::move(opened.directory);
  model.form = formats::CheckpointFiles::Form::kIndexed;
  model.needs_index = opened.shards.index.has_value();
  model.has_config = true;
  model.config_text = std::move(opened.config_text);
  model.config = std::move(opened.config);
  model.catalog = std::move(opened.catalog);
  model.findings = std::move(opened.warnings);
  for (const formats::LayoutSideFile& side : opened.shards.layout.side_files) {
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
  // Where tensors were dropped, the config may predict tensors that are not there.
  if (options.mtp_may_be_missing) TakeMissingMtp(model);
  if (opened.shards.layout.dropped.empty()) {
    RequireModel(model.config, model.catalog, model.findings);
  }
  model.ranks = std::make_shared<const RankShards>(std::move(opened.shards));
  model.assembled = model.ranks;
  return model;
}

}  // namespace

OpenedModel OpenModel(const fs::path& input, const OpenOptions& options) {
  if (options.faults == OpenOptions::Faults::kThrow) RefuseUnfinishedConversion(input);
  RefuseDemo(input);
  if (const auto place = FindTraining(input)) return OpenTraining(*place, options);
  return IsRankDirectory(input) ? OpenRanks(input, options) : OpenCheckpoint(input, options);
}

ModelTensors TensorsOf(const OpenedModel& model) {
  ModelTensors tensors{model.catalog, {}, model.directory};
  if (model.assembled) {
    tensors.derived.push_back(
        {&model.assembled->stored, model.assembled->origins, 0, &model.assembled->digests});
  }
  return tensors;
}

ModelTensors StoredTensorsOf(const OpenedModel& model) {
  return {model.assembled ? model.assembled->stored : model.catalog, {}, model.directory};
}

ExpressionPtr OriginOf(const OpenedModel& model, std::uint32_t tensor) {
  return model.assembled ? model.assembled->origins[tensor] : Copy(model.catalog, tensor);
}

}  // namespace dsv3::convert
