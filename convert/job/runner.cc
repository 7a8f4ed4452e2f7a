#include "convert/job/runner.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"
#include "convert/job/finished_output.h"
#include "convert/job/link_way.h"
#include "convert/job/manifest.h"
#include "convert/job/one_file_output.h"
#include "convert/job/output_place.h"
#include "convert/job/plan_report.h"
#include "convert/job/process_messages.h"
#include "convert/job/source_deletion.h"
#include "convert/job/source_release.h"
#include "convert/open/base_tensors.h"
#include "convert/open/packed_model.h"
#include "convert/open/pull_weights_model.h"
#include "convert/stream/archive_checks.h"
#include "convert/stream/executor.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/side_file_check.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

void RequireMayDelete(const RunOptions& run, const std::string& keeps_source) {
  if (!run.delete_source_shards || keeps_source.empty()) return;
  throw Error(ErrorCode::kUsage, "--delete-source-shards: " + keeps_source);
}

void CheckOptions(const ConversionKind& conversion, const JobRequest& request) {
  const RunOptions& run = request.run;
  if (run.memory_bytes != 0 && run.memory_bytes < kMinMemoryBytes) {
    throw Error(ErrorCode::kUsage, fmt::format("--memory {} is too little; give at least {} (8Mi)",
                                               run.memory_bytes, kMinMemoryBytes));
  }
  RequireMayDelete(run, conversion.keeps_source);
  if (conversion.check_options) conversion.check_options(request);
}

bool MayDelete(const ConversionKind& conversion, const OpenedModel& model) {
  return conversion.keeps_source.empty() && (!model.assembled || conversion.frees_assembled) &&
         !IsPackedAlone(model.directory);
}

// --scales-from and --mtp-from may name a checkpoint that has files of IN through links.
void RequireOtherFilesStay(const ModelTensors& tensors) {
  std::vector<fs::path> others;
  const auto add = [&](const Catalog& catalog) {
    for (const SourceFile& file : catalog.files()) {
      if (!file.checkpoint.empty()) others.push_back(file.path);
    }
  };
  add(tensors.catalog);
  for (const DerivedTensors& derived : tensors.derived) add(*derived.stored);
  if (others.empty()) return;
  std::set<fs::path> going;
  for (const SourceDeletion& deletion : PlanDeletionOf(tensors)) {
    if (deletion.shard_goes()) going.insert(deletion.shard);
    if (deletion.file_goes()) going.insert(deletion.file);
  }
  for (const fs::path& other : others) {
    for (const fs::path& on_way : LinkWay(other)) {
      if (!going.contains(on_way)) continue;
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: --delete-source-shards would delete {}, which this file of the "
                              "other checkpoint is or leads to; give that checkpoint a copy of the "
                              "file, or leave the option out",
                              formats::ShownPath(other), formats::ShownPath(on_way)),
                  {other.string(), ""});
    }
  }
}

// What goes with the files of a training checkpoint, a sentence; empty where they hold the model
// alone.
std::string DeletedBeside(const OpenedModel& model) {
  const std::uint64_t others = TotalOf(model.training.skipped);
  if (others == 0) return "";
  return fmt::format(
      "{} of the source {} not of the model, such as those of an optimizer; where they lie in "
      "files with weights, --delete-source-shards deletes them with these",
      others == 1 ? "1 tensor" : fmt::format("{} tensors", others), others == 1 ? "is" : "are");
}

// `output` is the directory that is written.
OpenedModel Open(const ConversionKind& conversion, const JobRequest& request,
                 const fs::path& output) {
  RequirePlaces(request.input, output);
  if (!request.run.base.empty()) RequireApart(request.run.base, output);
  OpenOptions opening = conversion.opening;
  opening.base = request.run.base;
  opening.freed = ReadFreedShards(output);
  OpenedModel model =
      conversion.open ? conversion.open(request, opening) : OpenModel(request.input, opening);
  if (!request.run.delete_source_shards) return model;
  if (!MayDelete(conversion, model)) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--delete-source-shards: {} are needed whole until the last file is "
                    "written; leave the option out, and delete them when the output is complete",
                    model.ranks                      ? "rank shards"
                    : IsPackedAlone(model.directory) ? "packed files"
                    : IsPullDirectory(request.input) ? "weight deltas and their base"
                                                     : "the files of a training checkpoint"));
  }
  if (!request.run.dry_run && request.run.confirm_deletion) {
    const std::vector<SourceDeletion> deletions = PlanDeletionOf(TensorsOf(model));
    // An earlier run may have deleted all of them.
    if (!deletions.empty()) request.run.confirm_deletion(deletions, DeletedBeside(model));
  }
  return model;
}

// The files of a training checkpoint that stay, for nothing in OUT comes from them.
ReportFact StayingFiles(const OpenedModel& model, const ConversionReport& report) {
  std::set<fs::path> going;
  for (const SourceDeletion& deletion : report.deletions) {
    if (deletion.shard_goes()) going.insert(deletion.shard);
  }
  ReportFact fact{"staying", "staying", "", {}};
  std::uint64_t bytes = 0;
  std::error_code error;
  const fs::path directory = fs::canonical(model.directory, error);
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (!entry->is_regular_file(ignored) || going.contains(entry->path())) continue;
    const std::uintmax_t size = entry->file_size(ignored);
    bytes += ignored ? 0 : size;
    fact.names.push_back(entry->path().lexically_relative(directory).string());
  }
  std::sort(fact.names.begin(), fact.names.end());
  if (!fact.names.empty()) {
    fact.text = fmt::format("{} file{} of IN, {}: no weight comes from {}", fact.names.size(),
                            fact.names.size() == 1 ? "" : "s", formats::ExactBytes(bytes),
                            fact.names.size() == 1 ? "it" : "them");
  }
  return fact;
}

ConversionReport ReportPlanned(const OpenedModel& model, const Recipe& recipe) {
  ConversionReport report;

  report.warnings = model.findings;
  report.warnings.insert(report.warnings.end(), recipe.warnings.begin(), recipe.warnings.end());
  std::uint64_t copied = 0;
  for (const PlannedFile& file : recipe.plan->files) {
    report.tensors += file.tensors.size();
    report.output_bytes += file.disk_bytes();
    for (const PlannedTensor& tensor : file.tensors) {
      if (tensor.expression->rule() == "copy") ++copied;
    }
  }
  report.converted_tensors = recipe.converted_tensors;
  report.copied_tensors = recipe.copied_tensors.value_or(copied);
  report.side_files = recipe.plan->side_files.size();
  for (const PlannedSideFile& side : recipe.plan->side_files) {
    if (side.source.empty()) continue;
    const formats::InputFile readable(side.source, side.name);  // else throws before any work
    if (auto broken = formats::FindBrokenSideFile(side.source, side.name)) {
      report.warnings.push_back(*std::move(broken));
    }
  }
  report.left_behind = recipe.plan->left_behind;
  for (const CatalogTensor& tensor : recipe.tensors.catalog.tensors()) {
    report.source_bytes += tensor.extent.length;
  }
  return report;
}

}  // namespace

ConversionReport RunConversion(const ConversionKind& conversion, const JobRequest& request,
                               formats::FileSystem& file_system, ProgressSink& progress,
                               const StopToken& stop) {
  const auto begin = std::chrono::steady_clock::now();
  CheckOptions(conversion, request);
  std::optional<OneFileOutput> one_file;
  if (conversion.one_file) {
    RequireFilePlace(request.input, request.output);
    one_file.emplace(request.output, request.run.overwrite);
  }
  const fs::path output = one_file ? one_file->directory() : request.output;
  std::optional<OpenedModel> opened;
  try {
    opened = Open(conversion, request, output);
  } catch (const Error& error) {
    // The source may be gone because an earlier run deleted it and ended.
    if (!request.run.delete_source_shards || error.code() != ErrorCode::kBadInput) throw;
    auto finished =
        FinishedWithoutSource(request.input, request.output, conversion.recipe, file_system);
    if (!finished) throw;
    finished->made = request.output;
    return std::move(*finished);
  }
  OpenedModel& model = *opened;
  const Recipe recipe = conversion.make_recipe(model, {request, progress, stop});
  RequireMayDelete(request.run, recipe.keeps_source);
  if (request.run.delete_source_shards) RequireOtherFilesStay(recipe.tensors);
  RequireBaseRead(request.run.base, ReadsBase(recipe.tensors));
  ConversionReport report = ReportPlanned(model, recipe);
  report.recipe = conversion.recipe;
  report.title = conversion.title;
  report.converted_text = conversion.converted_text;
  report.last_file = one_file ? one_file->manifest() : request.output / LastFileOf(*recipe.plan);
  const std::string beside = DeletedBeside(model);
  if (request.run.delete_source_shards && !beside.empty()) {
    report.warnings.push_back({formats::Severity::kWarning, "deletes-others", "", "", beside});
  }
  RunOptions run = request.run;
  run.input = formats::ShownAbsolutePath(request.input);
  run.source_may_go = MayDelete(conversion, model) && recipe.keeps_source.empty();
  run.source_is_checked =
      (model.assembled && HasCheckedBytes(model.assembled->stored)) ||
      std::any_of(recipe.tensors.derived.begin(), recipe.tensors.derived.end(),
                  [](const DerivedTensors& derived) { return HasCheckedBytes(*derived.stored); });
  if (one_file) run.output = formats::ShownAbsolutePath(request.output);
  // Helpers learn from process 0 that there is nothing to do, as from RunPlan.
  if (one_file && !IsHelper(run.sharing) &&
      one_file->IsFinished(*recipe.plan, recipe.tensors, run, file_system, stop)) {
    if (IsShared(run.sharing)) run.sharing->Broadcast("");
    report.outcome = ConversionReport::Outcome::kNothingToDo;
    for (const PlannedFile& file : recipe.plan->files) {
      report.files.push_back({file.name, file.bytes, file.tensors.size(), "", true});
    }
    report.kept_files = report.files.size();
  } else {
    report = RunPlan(recipe.tensors, *recipe.plan, output, run, recipe.hooks, std::move(report),
                     file_system, progress, stop);
    const bool ended = report.outcome == ConversionReport::Outcome::kConverted ||
                       report.outcome == ConversionReport::Outcome::kNothingToDo;
    if (one_file && ended && MayEnd(run) && !IsHelper(run.sharing)) {
      one_file->Place(*recipe.plan, file_system);
    }
  }
  const bool several =
      one_file && report.files.size() > 1 && report.outcome != ConversionReport::Outcome::kPartDone;
  report.made = several ? request.output.parent_path() / report.files.front().name : request.output;
  if (recipe.add_facts) recipe.add_facts(report);
  std::error_code ignored;
  if (run.delete_source_shards && !model.has_own_shards() &&
      report.outcome != ConversionReport::Outcome::kNothingToDo &&
      fs::is_directory(request.input, ignored)) {
    report.facts.push_back(StayingFiles(model, report));
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace dsv3::convert
