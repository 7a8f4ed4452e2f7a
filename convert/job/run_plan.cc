#include "convert/job/run_plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/abandoned_output.h"
#include "convert/job/finished_files.h"
#include "convert/job/finished_output.h"
#include "convert/job/journal.h"
#include "convert/job/other_job.h"
#include "convert/job/output_lock.h"
#include "convert/job/output_place.h"
#include "convert/job/output_run.h"
#include "convert/job/plan_report.h"
#include "convert/job/source_probe.h"
#include "convert/job/source_release.h"
#include "convert/open/base_tensors.h"
#include "convert/stream/derived_checks.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/new_directories.h"
#include "formats/message_text.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

ConversionReport OutputRun::Run() {
  job_ = DescribeJob(source_, plan_, hooks_, run_, assignment_);
  state_ = LookAtOutput(output_, job_, progress_, stop_);
  for (formats::Finding& warning : std::exchange(report_.warnings, {})) Warn(std::move(warning));
  for (const std::string& name : state_.changed) {
    Warn({formats::Severity::kWarning, "changed-file", name, "",
          fmt::format("{}: an earlier conversion made this file and somebody changed it since, so "
                      "--overwrite leaves it there; remove it where it does not belong to the "
                      "result",
                      formats::ShownPath(name))});
  }
  if (IsFinished()) RequireSameSource();
  if (assignment_.must_end && !IsFinished()) RequireParts();
  // Also where something is written: a source that must not be deleted is refused before.
  if (run_.delete_source_shards && !IsFinished()) report_.deletions = PlanDeletionOf(source_);
  if (run_.dry_run) {
    ReportPlan();
  } else if (IsFinished()) {
    ReportNothingToDo();
  } else {
    Write();
  }
  if (IsShared(run_.sharing) && !ordered_) run_.sharing->Broadcast("");
  report_.bytes_read = sources_.bytes_read() + bytes_read_by_helpers_;
  return std::move(report_);
}

void OutputRun::Warn(formats::Finding warning) {
  progress_.OnWarning(warning.message);
  report_.warnings.push_back(std::move(warning));
}

void OutputRun::RequireSameSource() {
  if (!state_.manifest) return;
  const std::optional<OtherTensor> other =
      FindOtherTensor(*state_.manifest, plan_, source_, sources_, stop_);
  if (!other) return;
  RefuseOtherSource(output_, *state_.manifest, other->of_base ? kBaseOption : "IN", other->file,
                    other->name);
}

void OutputRun::ReportNothingToDo() {
  report_.outcome = ConversionReport::Outcome::kNothingToDo;
  if (plan_.packed) TakeEndedFiles();
  // The last run ended between the manifest and the removal of its journal. Parts leave that to a
  // run of the whole job.
  if (assignment_.run == RunId() && HasLeftovers(output_)) {
    const RunLocks locks(output_, assignment_.run);
    RemoveLeftovers(output_, fs_);
  }
  ReportRecords({});
}

ExecutorOptions OutputRun::ExecutorSettings() const {
  ExecutorOptions options;
  options.threads = ResolveThreads(run_.threads);
  options.memory_bytes = run_.memory_bytes != 0 ? run_.memory_bytes : kDefaultMemoryBytes;
  options.derived = source_.derived;
  options.max_open_files = open_files_;
  options.make_scratch = [this] { return fs_.CreateScratch(output_); };
  options.sha256 = run_.checksum == ChecksumMode::kSha256;
  options.tensor_sha256 = run_.tensor_sha256;
  return options;
}

// Takes over the files that earlier runs finished. The run that ends the job reads back every file
// that it did not make; any other run reads back only the files that it would make itself.
void OutputRun::TakeFinishedFiles(bool sizes_only) {
  finished_files_.clear();
  unchecked_.clear();
  const FileRecords none;
  std::map<std::string, FileRecord> records;
  if (IsUnfinished()) records = state_.journals.files;
  std::vector<char> ours(plan_.files.size(), 0);
  for (const std::size_t file : assignment_.files) ours[file] = 1;
  std::map<std::string, FileRecord> others;
  for (std::size_t i = 0; i < plan_.files.size(); ++i) {
    if (ours[i] == 0) {
      if (auto record = records.extract(plan_.files[i].name)) others.insert(std::move(record));
    }
  }
  if (!assignment_.side_files) {
    for (const PlannedSideFile& side : plan_.side_files) records.erase(side.name);
  }
  const unsigned threads = sizes_only ? 1 : ResolveThreads(run_.threads);
  const bool waits = WaitsToBeVisible(plan_, run_);
  formats::Findings warnings;
  unchecked_ = CheckFinishedFiles(output_, others, 1, true, warnings, progress_, stop_, waits);
  ends_ = assignment_.may_end && assignment_.files.size() + unchecked_.size() == plan_.files.size();
  if (ends_) records.merge(std::exchange(unchecked_, {}));
  finished_files_ =
      CheckFinishedFiles(output_, records, threads, sizes_only, warnings, progress_, stop_, waits);
  for (formats::Finding& warning : warnings) Warn(std::move(warning));
}

// The weight files that this run is to make. The run that ends the job also makes again the files
// of other runs that are no longer right.
std::vector<std::size_t> OutputRun::FilesToMake() const {
  std::vector<std::size_t> all(plan_.files.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  std::vector<std::size_t> to_make;
  for (const std::size_t file : ends_ ? all : assignment_.files) {
    if (finished_files_.count(plan_.files[file].name) == 0) to_make.push_back(file);
  }
  return to_make;
}

std::uint64_t OutputRun::MissingFiles() const {
  return ends_ ? 0 : plan_.files.size() - assignment_.files.size() - unchecked_.size();
}

void OutputRun::CheckDisk(const std::vector<std::size_t>& to_make) {
  open_files_ = ReportDisk(source_, plan_, output_, run_, ExecutorSettings(), to_make, report_);
}

void OutputRun::ReportPlan() {
  report_.outcome = ConversionReport::Outcome::kPlanned;
  report_.resumed = IsUnfinished();
  TakeFinishedFiles(/*sizes_only=*/true);
  if (IsFinished()) TakeEndedFiles();
  CheckDisk(FilesToMake());
  report_.peak_memory_bytes =
      EstimateMemory(source_, ResourcesOf(ExecutorSettings(), plan_, assignment_.files));
  ReportRecords({});
}

// After an error before anything was written: leaves no directory that was not there.
void OutputRun::RemoveEmptyOutput() { formats::RemoveEmptyDirectories(fs_, created_directories_); }

SideDigests OutputRun::FreedSides() const {
  SideDigests freed;
  if (!IsUnfinished()) return freed;
  for (const JournalSide& side : state_.journals.runs[0].head.sides) {
    const std::uint32_t tensor = source_.catalog.Find(side.tensor);
    if (tensor == Catalog::kNone) continue;
    const SourceFile& file = source_.catalog.files()[source_.catalog.tensors()[tensor].extent.file];
    if (!file.path.empty() && !formats::Exists(file.path)) {
      freed.emplace(tensor, side.digests);
    }
  }
  return freed;
}

// Of sources that are made of stored tensors with known digests, these tensors are read and
// compared before a byte is written.
void OutputRun::CheckDerived(const std::vector<std::size_t>& to_make) {
  if (source_.derived.empty()) return;
  std::vector<std::uint32_t> tensors;
  for (const std::size_t file : to_make) {
    for (const PlannedTensor& tensor : plan_.files[file].tensors) {
      for (const auto& sources :
           {tensor.expression->streamed_sources(), tensor.expression->side_sources()}) {
        tensors.insert(tensors.end(), sources.begin(), sources.end());
      }
    }
  }
  CheckDerivedTensors(source_.derived, tensors, ResolveThreads(run_.threads), progress_, stop_);
}

// A file that was damaged after its source was freed cannot be made again.
void OutputRun::RequireSources(const std::vector<std::size_t>& to_make) const {
  if (!IsUnfinished()) return;
  for (const std::size_t file : to_make) {
    for (const std::uint32_t source : use_.FilesOf(plan_.files[file])) {
      const SourceFile& shard = use_.files()[source];
      if (formats::Exists(shard.path)) continue;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: this file is not as the interrupted run wrote it, and {}, of "
                              "which it is made, was deleted by --delete-source-shards; download "
                              "the source again and convert it with --overwrite",
                              formats::ShownPath(plan_.files[file].name), shard.name),
                  {plan_.files[file].name, ""});
    }
  }
}

// The scales say whether runs had the same source, where names, sizes and times do not.
void OutputRun::RequireSameSides() const {
  if (!IsUnfinished()) return;
  for (const BegunRun& run : state_.journals.runs) {
    for (const JournalSide& side : run.head.sides) {
      const std::uint32_t tensor = source_.catalog.Find(side.tensor);
      const auto found = side_digests_.find(tensor);
      if (found == side_digests_.end() || found->second.xxh3 == side.digests.xxh3) continue;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: {} was begun with another source: {} had other values; give all "
                              "runs of a job the same source, or begin anew in another directory",
                              formats::ShownPath(output_), ShownName(run.name), side.tensor),
                  {output_.string(), side.tensor});
    }
  }
}

JournalHead OutputRun::HeadToWrite() const {
  JournalHead head = job_.head;
  head.replaced = state_.replaced;
  // A file of the interrupted run that is no longer right is removed like the files of an earlier
  // job. It would have no line in the journal, and so look like a file of the user.
  if (IsUnfinished()) {
    for (const auto& [name, record] : state_.journals.files) {
      if (finished_files_.count(name) == 0 && unchecked_.count(name) == 0)
        head.replaced.push_back(name);
    }
  }
  // A part does not touch the files of other parts, which may be writing them now.
  if (assignment_.run != RunId()) {
    const auto is_others = [&](const std::string& name) {
      return std::count(job_.writes.begin(), job_.writes.end(), name) == 0;
    };
    head.replaced.erase(std::remove_if(head.replaced.begin(), head.replaced.end(), is_others),
                        head.replaced.end());
  }
  // A complete file has already replaced the earlier one.
  const auto is_complete = [&](const std::string& name) {
    return finished_files_.count(name) != 0 || unchecked_.count(name) != 0;
  };
  head.replaced.erase(std::remove_if(head.replaced.begin(), head.replaced.end(), is_complete),
                      head.replaced.end());
  for (const auto& [tensor, digests] : side_digests_) {
    // Only shards of the checkpoint that is converted are freed.
    if (tensor >= source_.catalog.tensors_end()) continue;
    head.sides.push_back({source_.catalog.tensors()[tensor].name, digests});
  }
  return head;
}

// The files that this run replaces and that the journals of the interrupted runs name.
std::vector<std::string> OutputRun::ReplacedBefore() const {
  std::vector<std::string> names = head_.replaced;
  const auto is_new = [&](const std::string& name) {
    return state_.journals.files.count(name) == 0 &&
           std::none_of(state_.journals.runs.begin(), state_.journals.runs.end(),
                        [&](const BegunRun& run) {
                          const std::vector<std::string>& replaced = run.head.replaced;
                          return std::count(replaced.begin(), replaced.end(), name) != 0;
                        });
  };
  names.erase(std::remove_if(names.begin(), names.end(), is_new), names.end());
  return names;
}

// The files whose partial files this run removes: all that it may write, except complete ones that
// wait for their final names.
std::vector<std::string> OutputRun::UnfinishedNames() const {
  std::vector<std::string> names = job_.writes;
  if (!WaitsToBeVisible(plan_, run_)) return names;
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string& name) {
                               return finished_files_.count(name) != 0 ||
                                      unchecked_.count(name) != 0;
                             }),
              names.end());
  return names;
}

// Looks at the directory once more, now that the locks keep other runs from changing it.
void OutputRun::LookAgain() {
  state_ = LookAtOutput(output_, job_, progress_, stop_);
  if (IsFinished()) return;
  if (assignment_.must_end) RequireParts();
  if (assignment_.run == RunId()) JoinJournals(output_, state_.journals, fs_);
}

// Whether this run removes its files when the source turns out to be wrong. Other runs of the job
// may be writing beside this one; the files of all runs then stay under NAME.partial.
bool OutputRun::MayAbandon() const {
  return WaitsToBeVisible(plan_, run_) && assignment_.run == RunId() && !IsShared(run_.sharing);
}

void OutputRun::Abandon(std::optional<Journal>& journal) {
  journal.reset();
  try {
    AbandonOutput(output_, head_, fs_);
  } catch (const Error&) {
    // The error about the source is the one to report. The files that are left are not visible.
  }
}

void OutputRun::Write() {
  std::optional<Journal> journal;
  try {
    created_directories_ = formats::CreateDirectories(fs_, CanonicalPath(output_));
    const RunLocks locks(output_, assignment_.run);
    LookAgain();
    // Another run finished it before this one got the lock.
    if (IsFinished()) {
      report_.outcome = ConversionReport::Outcome::kNothingToDo;
      if (plan_.packed) TakeEndedFiles();
      return ReportRecords({});
    }
    report_.resumed = IsUnfinished();
    TakeFinishedFiles(/*sizes_only=*/false);
    const std::vector<std::size_t> to_make = FilesToMake();
    RequireSources(to_make);
    CheckDerived(to_make);
    const SideDigests freed_sides = FreedSides();
    side_digests_ =
        hooks_.preflight({sources_, freed_sides, to_make,
                          [this](formats::Finding warning) { Warn(std::move(warning)); }});
    RequireSameSides();
    if (hooks_.prepare && !IsShared(run_.sharing)) hooks_.prepare(to_make, sources_, progress_);
    head_ = HeadToWrite();
    // The files that interrupted runs left are removed before the disk space is checked; files that
    // an overwrite replaces are removed only once the journal lists them.
    if (IsUnfinished()) ClearOutput(output_, UnfinishedNames(), ReplacedBefore(), fs_);
    CheckDisk(to_make);
    RequireDisk(output_, report_);
    std::vector<FileRecord> complete;
    for (const auto& [name, record] : finished_files_) complete.push_back(record);
    for (const auto& [name, record] : unchecked_) complete.push_back(record);
    journal.emplace(fs_, output_, head_, complete, assignment_.run);
    ClearOutput(output_, UnfinishedNames(), head_.replaced, fs_);

    Committer committer(fs_, output_, plan_, *journal, run_, finished_files_);
    try {
      WriteWeights(committer, to_make);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kBadInput && MayAbandon()) Abandon(journal);
      throw;
    }
    if (ends_) {
      Finish(committer);
    } else {
      report_.outcome = ConversionReport::Outcome::kPartDone;
      report_.missing_files = MissingFiles();
    }
    report_.bytes_written = committer.bytes_written() + bytes_written_by_helpers_;
    ReportRecords(committer.records());
  } catch (...) {
    if (!journal) RemoveEmptyOutput();
    throw;
  }
}

ConversionReport RunPlan(const ModelTensors& source, const Plan& plan, const fs::path& output,
                         const RunOptions& run, const RecipeHooks& hooks, ConversionReport report,
                         formats::FileSystem& file_system, ProgressSink& progress,
                         const StopToken& stop) {
  const auto once = [&](const RunOptions& options) {
    OutputRun plan_run(source, plan, output, options, hooks, report, file_system, progress, stop);
    return IsHelper(options.sharing) ? plan_run.Help() : plan_run.Run();
  };
  if (!run.part || !run.finish || run.dry_run) return once(run);
  // --part and --finish: the part first, as if it had been asked for alone.
  RunOptions step = run;
  step.finish = false;
  ConversionReport part = once(step);
  step = run;
  step.part.reset();
  // Those of the model are shown once.
  report.warnings.clear();
  ConversionReport finished = once(step);
  part.warnings.insert(part.warnings.end(), finished.warnings.begin(), finished.warnings.end());
  finished.warnings = std::move(part.warnings);
  finished.bytes_read += part.bytes_read;
  finished.bytes_written += part.bytes_written;
  return finished;
}

}  // namespace dsv3::convert
