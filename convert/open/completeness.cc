#include "convert/open/completeness.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/layouts/deepseek_names.h"
#include "convert/model/model_config.h"
#include "convert/open/broken_files.h"
#include "convert/open/file_fault.h"
#include "convert/open/hub.h"
#include "convert/open/listed_files.h"
#include "convert/open/missing_tensors.h"
#include "convert/open/modelopt_description.h"
#include "convert/open/numbered_files.h"
#include "convert/open/packed_model.h"
#include "convert/open/rank_directory.h"
#include "convert/open/rank_shards.h"
#include "convert/open/training_place.h"
#include "convert/open/training_reader.h"
#include "convert/open/unfinished.h"
#include "convert/open/unlisted_tensors.h"
#include "formats/checkpoint_check.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::CheckpointFiles;
using formats::Finding;
using formats::Findings;
using formats::kConfigName;
using formats::Severity;

constexpr std::string_view kSuffix = ".safetensors";

// The files that the hub's listing and records name, that a model needs, and that the directory
// lacks.
std::string AbsenceOf(const fs::path& path) {
  const std::string dead = formats::DeadLinkProblem(path);
  return dead.empty() ? "there is no such file" : "it is " + dead;
}

void AddListed(const fs::path& directory, Findings& findings) {
  std::optional<HubRecords> records = ReadHubRecords(directory);
  if (!records) return;
  const bool has_index = records->files.count(std::string(formats::kShardIndexName)) != 0 ||
                         formats::Exists(directory / formats::kShardIndexName);
  for (const auto& [name, file] : records->files) {
    // With an index that says which weights there are, others may have been left out on purpose.
    const bool needed =
        name == kConfigName || name == formats::kShardIndexName ||
        (!has_index && name.ends_with(kSuffix) && name.find('/') == std::string::npos);
    if (!needed || formats::Exists(directory / name)) continue;
    findings.push_back(
        FileFault("missing-file", name,
                  fmt::format("{}: {} ({} lists it); continue the download, or copy "
                              "the file",
                              formats::ShownPath(name), AbsenceOf(directory / name), file.record)));
  }
}

// Files of DeepSeek's inference demo, whose names say of how many ranks they are.
Findings OfDemo(const fs::path& directory) {
  const std::vector<std::string> files = formats::ListSafetensors(directory);
  const std::uint64_t ranks = DemoRanks(files).value_or(0);
  Findings findings;
  // A name may say any number.
  for (std::uint64_t rank = 0; rank < ranks && findings.empty(); ++rank) {
    const std::string file = DeepseekFileName(rank, ranks);
    if (std::find(files.begin(), files.end(), file) != files.end()) continue;
    findings.push_back(FileFault(
        "missing-shard", file,
        fmt::format("{}: the other files are of {} ranks, and this one is missing; copy it from "
                    "where they come from",
                    file, ranks)));
  }
  return findings;
}

// The config; nothing where there is none that can be read.
std::optional<ModelConfig> ReadConfig(const CheckpointFiles& files) {
  if (!files.HasConfig()) return std::nullopt;
  try {
    ModelConfig config = ParseModelConfig(
        formats::ReadSmallFile(files.directory / kConfigName, formats::kMaxConfigBytes),
        kConfigName);
    config.modelopt = ReadModelOptDescription(files.directory);
    return config;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return std::nullopt;
  }
}

// One finding for all tensors that the index lists and that no file holds.
std::optional<Finding> FindLostTensors(const CheckpointFiles& files, const Catalog& catalog) {
  const std::string index(formats::kShardIndexName);
  std::string first;
  std::uint64_t lost = 0;
  for (const Finding& finding : files.findings) {
    if (finding.kind != "tensor-not-in-shard") continue;
    if (catalog.Find(finding.tensor) != Catalog::kNone) continue;
    if (lost++ == 0) first = finding.tensor;
  }
  if (lost == 0) return std::nullopt;
  Finding finding = FileFault(
      "missing-tensor", index,
      fmt::format("{}: it lists {} that no file of the checkpoint holds, such as {}; the index or "
                  "a shard is from another checkpoint: download both again",
                  index, lost == 1 ? std::string("1 tensor") : fmt::format("{} tensors", lost),
                  QuoteForMessage(first)));
  finding.tensor = first;
  return finding;
}

// Whether an error of this kind says that a file, or a part of it, is not there, or that nobody
// knows which must be.
bool SaysIncomplete(std::string_view kind) {
  return kind == "missing-shard" || kind == "unreadable-shard" || kind == "unreadable-index" ||
         kind == "malformed-index-entry" || kind == "unsafe-shard-path";
}

Findings OfCheckpoint(const fs::path& directory) {
  CheckpointFiles files =
      formats::OpenCheckpointFiles(directory, {}, formats::FaultyIndex::kReport);
  Findings findings;
  bool all_readable = true;
  for (const Finding& finding : files.findings) {
    all_readable = all_readable && !finding.unreadable;
    if (finding.severity == Severity::kError && SaysIncomplete(finding.kind)) {
      findings.push_back(finding);
    }
  }
  AddUnlessKnown(FindMissingFiles(files), findings);
  NameUnlistedHolders(files, findings);
  const bool files_missing = !findings.empty();
  if (files_missing || !all_readable) return findings;
  formats::DropSecondCopies(files);
  const Catalog catalog = Catalog::FromCheckpoint(files);
  std::optional<Finding> missing;
  if (const auto config = ReadConfig(files)) missing = FindMissingTensors(*config, catalog);
  if (!missing) missing = FindLostTensors(files, catalog);
  if (missing) {
    findings.push_back(*std::move(missing));
    NameUnlistedHolders(FindUnlistedTensors(files), findings);
  }
  return findings;
}

// What a training checkpoint of safetensors files says of them. Its tensors have other names than
// those that a config predicts, and whether they are all there its reader finds out. Nothing for
// other directories.
std::optional<Findings> OfTraining(const fs::path& directory) {
  using Kind = TrainingPlace::Kind;
  std::optional<TrainingPlace> place;
  try {
    place = FindTraining(directory);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
  }
  if (place && place->kind == Kind::kDcpSafetensors) {
    return FindMissingNumbers(place->files, "");
  }
  if (!place || place->kind != Kind::kNamedSafetensors) return std::nullopt;
  std::map<std::string, std::uint64_t> tensors;  // how many the map gives to each file
  try {
    for (const auto& [tensor, file] : ReadParameterMap(*place)) ++tensors[file];
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return Findings{FileFault("unreadable-index", kParameterMap, error.message())};
  }
  Findings findings;
  for (const auto& [file, count] : tensors) {
    if (std::binary_search(place->files.begin(), place->files.end(), file)) continue;
    findings.push_back(FileFault(
        "missing-shard", file,
        fmt::format("{}: {} gives {} to this file, but there is no such file; copy it from "
                    "where the others come from",
                    formats::ShownPath(file), kParameterMap,
                    count == 1 ? "1 tensor" : fmt::format("{} tensors", count))));
  }
  return findings;
}

bool HoldsCheckpoint(const fs::path& directory) {
  return formats::Exists(directory / formats::kShardIndexName) ||
         !formats::ListSafetensors(directory).empty();
}

Findings OfFiles(const fs::path& directory) {
  if (IsRankDirectory(directory)) return FindMissingRankFiles(directory);
  if (IsDemoDirectory(directory)) return OfDemo(directory);
  if (IsPackedAlone(directory)) return FindMissingPackedFiles(directory);
  if (std::optional<Findings> findings = OfTraining(directory)) return *std::move(findings);
  Findings findings;
  if (!HoldsCheckpoint(directory)) {
    AddListed(directory, findings);
    return findings;
  }
  try {
    return OfCheckpoint(directory);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    // An index that cannot be read, and nothing beside it.
    return {FileFault("unreadable-index", std::string(formats::kShardIndexName), error.message())};
  }
}

}  // namespace

Findings FindMissingFiles(const CheckpointFiles& files) {
  Findings findings;
  if (!files.index) {
    std::vector<std::string> names;
    for (const formats::ShardFile& shard : files.shards) names.push_back(shard.name);
    findings = FindMissingNumbers(
        names, fmt::format(", and there is no {} that says otherwise", formats::kShardIndexName));
  }
  AddListed(files.directory, findings);
  return findings;
}

Findings JudgeCompleteness(const fs::path& directory) {
  Findings findings = FindUnfinished(directory);
  if (HasUnfinishedConversion(findings)) return findings;
  AddUnlessKnown(OfFiles(directory), findings);
  AddUnlessKnown(FindBrokenFiles(directory), findings);
  return findings;
}

void AddUnlessKnown(Findings more, Findings& findings) {
  std::set<std::string> missing;  // files
  std::set<std::string> wrong;
  std::set<std::string> tensors;  // that are missing
  for (const Finding& finding : findings) {
    if (finding.kind.starts_with("missing-")) missing.insert(finding.file);
    if (finding.kind == "missing-tensor") tensors.insert(finding.tensor);
    if (finding.severity == Severity::kError) wrong.insert(finding.file);
  }
  const auto is_known = [&](const Finding& finding) {
    if (!finding.kind.starts_with("missing-") && !finding.kind.starts_with("unfinished-")) {
      return wrong.count(finding.file) != 0;
    }
    if (finding.kind == "missing-tensor" && tensors.count(finding.tensor) != 0) return true;
    return finding.kind.starts_with("missing-") && missing.count(finding.file) != 0;
  };
  std::copy_if(std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()),
               std::back_inserter(findings),
               [&](const Finding& finding) { return !is_known(finding); });
}

void RequireComplete(const Findings& findings, std::string_view action) {
  const auto stops = [](const Finding& finding) {
    return finding.severity == Severity::kError || finding.kind.starts_with("unfinished-");
  };
  const auto first = std::find_if(findings.begin(), findings.end(), stops);
  if (first == findings.end()) return;
  const auto more = std::count_if(first + 1, findings.end(), stops);
  std::string message = first->message;
  if (more > 0) message += fmt::format(" ({} more like it)", more);
  const bool conversion = first->kind == "unfinished-conversion";
  throw Error(
      conversion ? ErrorCode::kUsage : ErrorCode::kBadInput,
      fmt::format(
          "{}; {} is refused until then, because it would call an incomplete checkpoint complete",
          message, action),
      {first->file, first->tensor});
}

}  // namespace dsv3::convert
