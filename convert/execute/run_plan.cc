#include "convert/execute/run_plan.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/execute/commit.h"
#include "convert/execute/disk_space.h"
#include "convert/execute/executor.h"
#include "convert/execute/file_digests.h"
#include "convert/execute/finished_output.h"
#include "convert/execute/journal.h"
#include "convert/execute/manifest.h"
#include "convert/execute/output_lock.h"
#include "convert/execute/output_state.h"
#include "convert/execute/source_release.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// One run of a plan on an output directory.
class PlanRun {
 public:
  PlanRun(const Source& source, const Plan& plan, const fs::path& output, const RunOptions& run,
          const PlanHooks& hooks, ConversionReport report, formats::FileSystem& file_system,
          ProgressSink& progress, const StopToken& stop)
      : source_(source),
        plan_(plan),
        output_(output),
        run_(run),
        hooks_(hooks),
        report_(std::move(report)),
        fs_(file_system),
        progress_(progress),
        stop_(stop),
        sources_(source.catalog) {}

  ConversionReport Run();

 private:
  void DescribeJob();
  void ReportPlan();
  void CheckDisk(const std::vector<std::size_t>& to_make);
  void RequireDisk() const;
  void RemoveEmptyOutput();
  SideDigests FreedSides() const;
  void RequireSources(const std::vector<std::size_t>& to_make) const;
  JournalHead HeadToWrite() const;
  void Write();
  void WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make);
  void Finish(Committer& committer);
  void ReportFiles(const std::unordered_map<std::string, FileRecord>& records);
  std::vector<std::size_t> FilesToMake() const;
  ExecutorOptions ExecutorSettings() const;

  const Source& source_;
  const Plan& plan_;
  const fs::path& output_;
  const RunOptions& run_;
  const PlanHooks& hooks_;
  ConversionReport report_;
  formats::FileSystem& fs_;
  ProgressSink& progress_;
  const StopToken& stop_;

  OutputJob job_;
  OutputState state_;
  std::map<std::string, FileRecord> kept_;
  SideDigests side_digests_;
  SourceFiles sources_;
  std::size_t open_files_ = 0;
  std::vector<fs::path> created_directories_;
};

std::int64_t MtimeNs(const fs::path& path) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(path, error);
  if (error) return 0;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

std::uint64_t SideFileBytes(const PlannedSideFile& side) {
  if (side.source.empty()) return side.content.size();
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(side.source, error);
  return error ? 0 : bytes;
}

void PlanRun::DescribeJob() {
  job_.plan = &plan_;
  job_.manifest_job = ManifestJob(plan_, source_.catalog, run_);
  job_.overwrite = run_.overwrite;
  JournalHead& head = job_.head;
  head.recipe = plan_.recipe;
  const std::string identity = PlanFingerprint(plan_, source_.catalog) + job_.manifest_job;
  head.fingerprint = formats::Xxh3Hex(std::as_bytes(std::span(identity)));
  for (const SourceFile& file : source_.catalog.files()) {
    head.sources.push_back(
        {file.name, file.bytes, file.mtime_ns, file.header_digest, file.checkpoint});
  }
  for (const PlannedSideFile& side : plan_.side_files) {
    if (side.source.empty()) continue;
    head.sources.push_back({side.name, SideFileBytes(side), MtimeNs(side.source), ""});
  }
  for (const PlannedFile& file : plan_.files) head.outputs.push_back(file.name);
  for (const PlannedSideFile& side : plan_.side_files) head.outputs.push_back(side.name);
  if (!plan_.index.empty()) head.outputs.emplace_back(formats::kShardIndexName);
  head.outputs.emplace_back(kManifestName);
}

ConversionReport PlanRun::Run() {
  DescribeJob();
  state_ = LookAtOutput(output_, job_);
  for (const formats::Finding& warning : report_.warnings) progress_.OnWarning(warning.message);
  if (run_.dry_run) {
    ReportPlan();
  } else if (state_.kind == OutputState::Kind::kFinished) {
    report_.outcome = ConversionReport::Outcome::kNothingToDo;
    // The last run ended between the manifest and the removal of its journal.
    if (HasLeftovers(output_)) {
      const OutputLock lock(output_);
      RemoveLeftovers(output_, fs_);
    }
    ReportFiles({});
  } else {
    Write();
  }
  report_.bytes_read = sources_.bytes_read();
  return std::move(report_);
}

ExecutorOptions PlanRun::ExecutorSettings() const {
  ExecutorOptions options;
  options.threads = ResolveThreads(run_.threads);
  options.memory_bytes = run_.memory_bytes != 0 ? run_.memory_bytes : kDefaultMemoryBytes;
  options.max_open_files = open_files_;
  options.sha256 = run_.checksum == ChecksumMode::kSha256;
  options.tensor_sha256 = run_.tensor_sha256;
  return options;
}

std::vector<std::size_t> PlanRun::FilesToMake() const {
  std::vector<std::size_t> to_make;
  for (std::size_t i = 0; i < plan_.files.size(); ++i) {
    if (kept_.count(plan_.files[i].name) == 0) to_make.push_back(i);
  }
  return to_make;
}

void PlanRun::CheckDisk(const std::vector<std::size_t>& to_make) {
  std::uint64_t other_bytes = plan_.index.size();
  for (const PlannedSideFile& side : plan_.side_files) other_bytes += SideFileBytes(side);
  // The manifest's and the journal's lines.
  other_bytes += std::uint64_t{1024} * report_.tensors;
  report_.disk_free_bytes = formats::FreeDiskBytes(output_);
  const std::size_t open_files = PlanResources(ExecutorSettings(), plan_, to_make).open_files;
  const bool can_free = SameFileSystem(output_, source_.directory);
  const auto estimate = [&](bool frees) {
    return EstimateDisk(plan_, source_.catalog, to_make, other_bytes, frees, open_files,
                        report_.disk_free_bytes);
  };
  const DiskNeed need = estimate(can_free && run_.delete_source_shards);
  open_files_ = need.open_files;
  report_.disk_needed_bytes = need.peak_bytes;
  report_.fits = need.peak_bytes <= report_.disk_free_bytes;
  report_.fits_with_deletion =
      report_.fits || (can_free && estimate(true).peak_bytes <= report_.disk_free_bytes);
}

void PlanRun::RequireDisk() const {
  if (report_.fits) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: {} bytes are needed on this disk and {} are free; free {} bytes, or "
                          "name another disk{}",
                          output_.string(), report_.disk_needed_bytes, report_.disk_free_bytes,
                          report_.disk_needed_bytes - report_.disk_free_bytes,
                          report_.fits_with_deletion ? " (--delete-source-shards would do)" : ""),
              {output_.string(), ""});
}

void PlanRun::ReportPlan() {
  report_.outcome = ConversionReport::Outcome::kPlanned;
  if (state_.journal) {
    kept_ = CheckKeptFiles(output_, state_.journal->files, 1, true, progress_, stop_);
    report_.resumed = true;
  }
  if (state_.kind == OutputState::Kind::kFinished) {
    for (const PlannedFile& file : plan_.files) kept_[file.name].name = file.name;
  }
  CheckDisk(FilesToMake());
  std::vector<std::size_t> all(plan_.files.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  // Measured: the program itself; catalog, plan, digests and manifest; and the chunks.
  report_.peak_memory_bytes = (std::uint64_t{32} << 20) +
                              std::uint64_t{900} * source_.catalog.tensors().size() +
                              PlanResources(ExecutorSettings(), plan_, all).memory_bytes;
  ReportFiles({});
}

void PlanRun::ReportFiles(const std::unordered_map<std::string, FileRecord>& records) {
  for (const PlannedFile& file : plan_.files) {
    OutputFileReport entry;
    entry.name = file.name;
    entry.bytes = file.bytes;
    entry.tensors = file.tensors.size();
    entry.kept = kept_.count(file.name) != 0;
    if (entry.kept) ++report_.kept_files;
    const auto record = records.find(file.name);
    if (record != records.end()) {
      entry.sha256 = record->second.file.sha256;
      for (std::size_t i = 0; i < file.tensors.size(); ++i) {
        const TensorRecord& tensor = record->second.tensors[i];
        const std::string& name = file.tensors[i].entry.name;
        if (tensor.nan_codes != 0) report_.nan_codes.push_back({name, tensor.nan_codes});
        if (tensor.quality) report_.quality.push_back({name, *tensor.quality});
      }
    }
    report_.files.push_back(std::move(entry));
  }
}

// After an error before anything was written: leaves no directory that was not there.
void PlanRun::RemoveEmptyOutput() {
  for (const fs::path& path : created_directories_) {
    std::error_code error;
    if (!fs::is_empty(path, error) || error) return;
    try {
      fs_.RemoveDirectory(path);
    } catch (const Error&) {
      return;
    }
  }
}

SideDigests PlanRun::FreedSides() const {
  SideDigests freed;
  if (!state_.journal) return freed;
  for (const JournalSide& side : state_.journal->head.sides) {
    const std::uint32_t tensor = source_.catalog.Find(side.tensor);
    if (tensor == Catalog::kNone) continue;
    const std::uint32_t file = source_.catalog.tensors()[tensor].extent.file;
    std::error_code error;
    if (!fs::exists(source_.catalog.files()[file].path, error)) {
      freed.emplace(tensor, side.digests);
    }
  }
  return freed;
}

// A file that was damaged after its source was freed cannot be made again.
void PlanRun::RequireSources(const std::vector<std::size_t>& to_make) const {
  if (!state_.journal) return;
  for (const std::size_t file : to_make) {
    for (const std::uint32_t source : SourcesOf(plan_.files[file], source_.catalog)) {
      std::error_code error;
      const SourceFile& shard = source_.catalog.files()[source];
      if (fs::exists(shard.path, error)) continue;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: this file is not as the interrupted run wrote it, and {}, of "
                              "which it is made, was deleted by --delete-source-shards; download "
                              "the source again and convert it with --overwrite",
                              plan_.files[file].name, shard.name),
                  {plan_.files[file].name, ""});
    }
  }
}

JournalHead PlanRun::HeadToWrite() const {
  JournalHead head = job_.head;
  head.replaced = state_.replaced;
  // What the interrupted run wrote and is no longer right gives way like an earlier job's files:
  // it would have no line in the journal, and so look like a file of the user.
  if (state_.journal) {
    for (const auto& [name, record] : state_.journal->files) {
      if (kept_.count(name) == 0) head.replaced.push_back(name);
    }
  }
  for (const auto& [tensor, digests] : side_digests_) {
    // Only shards of the checkpoint that is converted are freed.
    if (tensor >= source_.catalog.tensors_end()) continue;
    head.sides.push_back({source_.catalog.tensors()[tensor].name, digests});
  }
  return head;
}

void PlanRun::Write() {
  std::optional<Journal> journal;
  try {
    created_directories_ = formats::CreateDirectories(fs_, CanonicalPath(output_));
    const OutputLock lock(output_);
    // Again, now that nobody else changes it.
    state_ = LookAtOutput(output_, job_);
    if (state_.journal) {
      report_.resumed = true;
      kept_ = CheckKeptFiles(output_, state_.journal->files, ResolveThreads(run_.threads), false,
                             progress_, stop_);
    }
    const std::vector<std::size_t> to_make = FilesToMake();
    RequireSources(to_make);
    const SideDigests freed_sides = FreedSides();
    side_digests_ = hooks_.preflight({sources_, freed_sides, to_make});
    const JournalHead head = HeadToWrite();
    // What interrupted runs left gives its space back before the disk is checked; what an
    // overwrite removes goes only once the journal tells of it.
    if (state_.kind == OutputState::Kind::kUnfinished) ClearOutput(output_, head, kept_, fs_);
    CheckDisk(to_make);
    RequireDisk();
    std::vector<FileRecord> kept_records;
    for (const auto& [name, record] : kept_) kept_records.push_back(record);
    journal.emplace(fs_, output_, head, kept_records);
    if (state_.kind == OutputState::Kind::kFresh) ClearOutput(output_, head, kept_, fs_);

    Committer committer(fs_, output_, plan_, *journal, run_.checksum == ChecksumMode::kSha256,
                        kept_);
    WriteWeights(committer, to_make);
    Finish(committer);
  } catch (...) {
    if (!journal) RemoveEmptyOutput();
    throw;
  }
}

void PlanRun::WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make) {
  SourceChecks checks(plan_, to_make, sources_);
  checks.CheckApart(ResolveThreads(run_.threads), progress_, stop_);
  std::uint64_t total_bytes = 0;
  for (const std::size_t file : to_make) {
    total_bytes += plan_.files[file].bytes + PlannedRest(plan_.files[file]);
  }
  for (const PlannedSideFile& side : plan_.side_files) {
    if (!side.source.empty() && kept_.count(side.name) == 0) total_bytes += SideFileBytes(side);
  }
  progress_.OnPhase("converting", total_bytes);
  committer.WriteSideFiles(progress_, stop_);

  std::optional<SourceRelease> release;
  if (run_.delete_source_shards) {
    release.emplace(fs_, output_, plan_, source_.catalog, sources_, stop_);
    for (std::size_t i = 0; i < plan_.files.size(); ++i) {
      if (kept_.count(plan_.files[i].name) != 0) release->Checked(i);
    }
    committer.SetOnCommitted(
        [&](std::size_t file, const FileRecord& record) { release->Committed(file, record); });
  }
  try {
    ExecutorOptions options = ExecutorSettings();
    options.checks = &checks;
    Execute(plan_, to_make, sources_, options, committer, progress_, stop_);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInterrupted) throw;
    throw Error(ErrorCode::kInterrupted,
                fmt::format("interrupted; {} of {} weight files are finished, run the same command "
                            "again to continue from there",
                            plan_.files.size() - to_make.size() + committer.committed_files(),
                            plan_.files.size()));
  }
  if (release) report_.freed_source_shards = release->freed();
}

void PlanRun::Finish(Committer& committer) {
  committer.WriteIndex();
  committer.WriteManifest(
      ManifestText(job_.manifest_job, plan_, source_.catalog, committer.records(), side_digests_));
  RemoveLeftovers(output_, fs_);
  report_.bytes_written = committer.bytes_written();
  ReportFiles(committer.records());
}

}  // namespace

ConversionReport RunPlan(const Source& source, const Plan& plan, const fs::path& output,
                         const RunOptions& run, const PlanHooks& hooks, ConversionReport report,
                         formats::FileSystem& file_system, ProgressSink& progress,
                         const StopToken& stop) {
  return PlanRun(source, plan, output, run, hooks, std::move(report), file_system, progress, stop)
      .Run();
}

}  // namespace dsv3::convert
