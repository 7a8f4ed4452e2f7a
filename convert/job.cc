#include "convert/job.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/execute/commit.h"
#include "convert/execute/disk_space.h"
#include "convert/execute/executor.h"
#include "convert/execute/journal.h"
#include "convert/execute/manifest.h"
#include "convert/execute/output_lock.h"
#include "convert/execute/output_state.h"
#include "convert/execute/source_release.h"
#include "convert/model/expected_tensors.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfigName = "config.json";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{64} << 20;

// One conversion from opening the source to the manifest.
class Conversion {
 public:
  Conversion(const ConversionRequest& request, formats::FileSystem& file_system,
             ProgressSink& progress, const StopToken& stop)
      : request_(request), run_(request.run), fs_(file_system), progress_(progress), stop_(stop) {}

  ConversionReport Run();

 private:
  bool SourceWasFreedAndOutputIsFinished() const;
  void OpenSource();
  void MakePlan();
  void ReportPlan();
  void CheckDisk(const std::vector<std::size_t>& to_make);
  void CreateOutputDirectory();
  void RemoveEmptyOutput();
  void Write();
  void WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make);
  void Finish(Committer& committer);
  void CleanUp();
  void ReportFiles(const std::unordered_map<std::string, FileRecord>& records);
  std::vector<std::size_t> FilesToMake(const std::map<std::string, FileRecord>& kept) const;
  ExecutorOptions ExecutorSettings() const;

  const ConversionRequest& request_;
  const RunOptions& run_;
  formats::FileSystem& fs_;
  ProgressSink& progress_;
  const StopToken& stop_;

  formats::CheckpointFiles files_;
  std::optional<Catalog> catalog_;
  ModelConfig config_;
  std::vector<ScaledWeight> pairs_;
  Plan plan_;
  OutputJob job_;
  OutputState state_;
  std::map<std::string, FileRecord> kept_;
  std::unordered_map<std::uint32_t, Digests> side_digests_;
  std::optional<SourceFiles> sources_;
  std::size_t open_files_ = 0;
  std::vector<fs::path> created_directories_;
  ConversionReport report_;
};

// Comparable even where the path does not exist yet.
fs::path Canonical(const fs::path& path) {
  std::error_code error;
  fs::path canonical = fs::weakly_canonical(fs::absolute(path), error);
  if (error) canonical = fs::absolute(path).lexically_normal();
  // "dir/" and "dir" are one place.
  return canonical.has_filename() ? canonical : canonical.parent_path();
}

bool IsInside(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

void CheckPlaces(const fs::path& input_directory, const fs::path& output) {
  const fs::path in = Canonical(input_directory);
  const fs::path out = Canonical(output);
  std::string problem;
  if (in == out) {
    problem = "the output directory is the input directory";
  } else if (IsInside(out, in)) {
    problem = fmt::format("the output directory lies inside the input directory {}", in.string());
  } else if (IsInside(in, out)) {
    problem = fmt::format("the input directory {} lies inside the output directory", in.string());
  } else {
    return;
  }
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: {}; name a directory of its own for the output", output.string(), problem),
      {output.string(), ""});
}

void CheckRunOptions(const RunOptions& run) {
  if (run.memory_bytes != 0 && run.memory_bytes < kMinMemoryBytes) {
    throw Error(ErrorCode::kUsage, fmt::format("--memory {} is too little; give at least {} (8Mi)",
                                               run.memory_bytes, kMinMemoryBytes));
  }
  if (run.delete_source_shards && run.dry_run) return;
}

std::int64_t MtimeNs(const fs::path& path) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(path, error);
  if (error) return 0;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

JournalHead MakeHead(const Plan& plan, const Catalog& catalog, const std::string& manifest_job) {
  JournalHead head;
  head.recipe = plan.recipe;
  const std::string identity = PlanFingerprint(plan, catalog) + manifest_job;
  head.fingerprint = formats::Xxh3Hex(std::as_bytes(std::span(identity)));
  for (const SourceFile& file : catalog.files()) {
    head.sources.push_back({file.name, file.bytes, file.mtime_ns, file.header_digest});
  }
  for (const PlannedSideFile& side : plan.side_files) {
    if (side.source.empty()) continue;
    std::error_code error;
    head.sources.push_back(
        {side.name, fs::file_size(side.source, error), MtimeNs(side.source), ""});
  }
  for (const PlannedFile& file : plan.files) head.outputs.push_back(file.name);
  for (const PlannedSideFile& side : plan.side_files) head.outputs.push_back(side.name);
  if (!plan.index.empty()) head.outputs.emplace_back(formats::kShardIndexName);
  head.outputs.emplace_back(kManifestName);
  return head;
}

// Throws the first error; adds warnings to the report.
void RequireModel(const formats::Findings& findings, formats::Findings& warnings) {
  const formats::Finding* first = nullptr;
  std::size_t others = 0;
  for (const formats::Finding& finding : findings) {
    if (finding.severity == formats::Severity::kWarning) {
      warnings.push_back(finding);
    } else if (first == nullptr) {
      first = &finding;
    } else {
      ++others;
    }
  }
  if (first == nullptr) return;
  std::string message = first->message;
  if (others != 0) message += fmt::format(" ({} more tensors are missing or differ)", others);
  throw Error(ErrorCode::kBadInput, message, {first->file, first->tensor});
}

ConversionReport Conversion::Run() {
  const auto begin = std::chrono::steady_clock::now();
  CheckRunOptions(run_);
  report_.recipe = "fp8-to-bf16";
  if (run_.delete_source_shards && SourceWasFreedAndOutputIsFinished()) {
    report_.outcome = ConversionReport::Outcome::kNothingToDo;
    return report_;
  }
  OpenSource();
  MakePlan();
  state_ = LookAtOutput(request_.output, job_);
  for (const formats::Finding& warning : report_.warnings) progress_.OnWarning(warning.message);
  if (run_.dry_run) {
    ReportPlan();
  } else if (state_.kind == OutputState::Kind::kFinished) {
    report_.outcome = ConversionReport::Outcome::kNothingToDo;
    if (fs::exists(request_.output / kJournalName)) {
      const OutputLock lock(request_.output);
      CleanUp();
    }
    ReportFiles({});
  } else {
    Write();
  }
  if (sources_) report_.bytes_read = sources_->bytes_read();
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report_;
}

void Conversion::OpenSource() {
  files_ = formats::OpenCheckpointFiles(request_.input, ReadFreedShards(request_.output));
  CheckPlaces(files_.directory, request_.output);
  formats::RequireConsistent(files_);
  for (const formats::Finding& finding : files_.findings) report_.warnings.push_back(finding);
  if (!files_.HasConfig()) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is no config.json, which tells the block size of the "
                            "scales; copy it from where these weights came from",
                            files_.directory.string()),
                {std::string(kConfigName), ""});
  }
}

void Conversion::MakePlan() {
  const std::string config_text =
      formats::ReadSmallFile(files_.directory / kConfigName, kMaxConfigBytes);
  config_ = ParseModelConfig(config_text, std::string(kConfigName));
  catalog_ = Catalog::FromCheckpoint(files_);
  files_.index.reset();
  RequireModel(CheckAgainstModel(config_, *catalog_), report_.warnings);
  pairs_ = PairScales(*catalog_, config_);

  using Form = formats::CheckpointFiles::Form;
  // A lone model.safetensors needs no index; anything else is only found through one.
  const bool write_index =
      files_.form != Form::kSingle || files_.shards[0].name != "model.safetensors";
  plan_ = PlanFp8ToBf16(*catalog_, config_, pairs_, request_.fp8_to_bf16, write_index);
  for (const std::string& name : files_.side_files) {
    PlannedSideFile side;
    side.name = name;
    if (name == kConfigName) {
      side.content = ConfigForBf16(config_text, config_, plan_);
    } else {
      side.source = files_.directory / name;
    }
    plan_.side_files.push_back(std::move(side));
  }

  job_.plan = &plan_;
  job_.manifest_job = ManifestJob(plan_, *catalog_, run_);
  job_.head = MakeHead(plan_, *catalog_, job_.manifest_job);
  job_.overwrite = run_.overwrite;

  for (const PlannedFile& file : plan_.files) {
    report_.tensors += file.tensors.size();
    report_.output_bytes += file.bytes;
  }
  report_.converted_tensors = pairs_.size();
  report_.copied_tensors = report_.tensors - report_.converted_tensors;
  report_.side_files = plan_.side_files.size();
  for (const CatalogTensor& tensor : catalog_->tensors()) {
    report_.source_bytes += tensor.extent.length;
  }
}

ExecutorOptions Conversion::ExecutorSettings() const {
  ExecutorOptions options;
  options.threads = ResolveThreads(run_.threads);
  options.memory_bytes = run_.memory_bytes != 0 ? run_.memory_bytes : kDefaultMemoryBytes;
  options.max_open_files = open_files_;
  options.sha256 = run_.checksum == ChecksumMode::kSha256;
  options.tensor_sha256 = run_.tensor_sha256;
  return options;
}

std::vector<std::size_t> Conversion::FilesToMake(
    const std::map<std::string, FileRecord>& kept) const {
  std::vector<std::size_t> to_make;
  for (std::size_t i = 0; i < plan_.files.size(); ++i) {
    if (kept.count(plan_.files[i].name) == 0) to_make.push_back(i);
  }
  return to_make;
}

void Conversion::CheckDisk(const std::vector<std::size_t>& to_make) {
  std::uint64_t other_bytes = plan_.index.size();
  for (const PlannedSideFile& side : plan_.side_files) {
    std::error_code error;
    other_bytes += side.source.empty() ? side.content.size() : fs::file_size(side.source, error);
  }
  // The manifest's and the journal's lines.
  other_bytes += std::uint64_t{1024} * report_.tensors;
  report_.disk_free_bytes = formats::FreeDiskBytes(request_.output);
  const bool frees = run_.delete_source_shards && SameFileSystem(request_.output, files_.directory);
  const std::size_t open_files = OpenOutputFiles(ExecutorSettings(), to_make.size());
  const DiskNeed need = EstimateDisk(plan_, *catalog_, to_make, other_bytes, frees, open_files,
                                     report_.disk_free_bytes);
  open_files_ = need.open_files;
  report_.disk_needed_bytes = need.peak_bytes;
  report_.fits = report_.disk_needed_bytes <= report_.disk_free_bytes;
}

void Conversion::ReportPlan() {
  report_.outcome = ConversionReport::Outcome::kPlanned;
  if (state_.journal) {
    kept_ = CheckKeptFiles(request_.output, state_.journal->files, 1, true, progress_, stop_);
    report_.resumed = true;
  }
  if (state_.kind == OutputState::Kind::kFinished) {
    for (const PlannedFile& file : plan_.files) kept_[file.name].name = file.name;
  }
  CheckDisk(FilesToMake(kept_));
  const ExecutorOptions options = ExecutorSettings();
  // Measured: the program itself, catalog and plan, and the chunks.
  report_.peak_memory_bytes = (std::uint64_t{24} << 20) +
                              std::uint64_t{1100} * catalog_->tensors().size() +
                              options.memory_bytes;
  ReportFiles({});
}

void Conversion::ReportFiles(const std::unordered_map<std::string, FileRecord>& records) {
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
        const std::uint64_t nan_codes = record->second.tensors[i].nan_codes;
        if (nan_codes != 0) report_.nan_codes.push_back({file.tensors[i].entry.name, nan_codes});
      }
    }
    report_.files.push_back(std::move(entry));
  }
}

void Conversion::CreateOutputDirectory() {
  std::vector<fs::path> missing;
  for (fs::path path = Canonical(request_.output); !fs::exists(path); path = path.parent_path()) {
    missing.push_back(path);
  }
  for (auto path = missing.rbegin(); path != missing.rend(); ++path) {
    fs_.CreateDirectory(*path);
    fs_.SyncDirectory(path->parent_path());
  }
  created_directories_ = std::move(missing);
}

// After an error before anything was written: leaves no directory that was not there.
void Conversion::RemoveEmptyOutput() {
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

void Conversion::Write() {
  CreateOutputDirectory();
  std::optional<Journal> journal;
  try {
    const OutputLock lock(request_.output);
    // Again, now that nobody else changes it.
    state_ = LookAtOutput(request_.output, job_);
    sources_.emplace(*catalog_);
    const ScaleCheck scales = CheckScales(*catalog_, pairs_, request_.fp8_to_bf16.allow_bad_scales,
                                          run_.tensor_sha256, *sources_, progress_, stop_);
    report_.bad_scales = scales.bad_scales;
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      side_digests_.emplace(pairs_[i].scale, scales.digests[i]);
    }
    if (state_.journal) {
      report_.resumed = true;
      kept_ = CheckKeptFiles(request_.output, state_.journal->files, ResolveThreads(run_.threads),
                             false, progress_, stop_);
    }
    const std::vector<std::size_t> to_make = FilesToMake(kept_);
    JournalHead head = job_.head;
    head.replaced = state_.replaced;
    if (state_.kind == OutputState::Kind::kUnfinished) {
      ClearOutput(request_.output, head, kept_, fs_);
    }
    // What an overwrite removes is not counted as free: it goes only after this check.
    CheckDisk(to_make);
    if (!report_.fits) {
      throw Error(
          ErrorCode::kIo,
          fmt::format("{}: {} bytes are needed on this disk and {} are free; free {} "
                      "bytes, or name another disk{}",
                      request_.output.string(), report_.disk_needed_bytes, report_.disk_free_bytes,
                      report_.disk_needed_bytes - report_.disk_free_bytes,
                      run_.delete_source_shards ? "" : " (--delete-source-shards needs less)"),
          {request_.output.string(), ""});
    }
    std::vector<FileRecord> kept_records;
    for (const auto& [name, record] : kept_) kept_records.push_back(record);
    journal.emplace(fs_, request_.output, head, kept_records);
    if (state_.kind == OutputState::Kind::kFresh) ClearOutput(request_.output, head, kept_, fs_);

    Committer committer(fs_, request_.output, plan_, *journal,
                        run_.checksum == ChecksumMode::kSha256, kept_);
    WriteWeights(committer, to_make);
    Finish(committer);
  } catch (...) {
    if (!journal) RemoveEmptyOutput();
    throw;
  }
}

void Conversion::WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make) {
  std::uint64_t total_bytes = 0;
  for (const std::size_t file : to_make) total_bytes += plan_.files[file].bytes;
  for (const PlannedSideFile& side : plan_.side_files) {
    std::error_code error;
    if (!side.source.empty() && kept_.count(side.name) == 0) {
      total_bytes += fs::file_size(side.source, error);
    }
  }
  progress_.OnPhase("converting", total_bytes);
  committer.WriteSideFiles(progress_, stop_);

  std::optional<SourceRelease> release;
  if (run_.delete_source_shards) {
    release.emplace(fs_, request_.output, plan_, *catalog_, *sources_, stop_);
    for (std::size_t i = 0; i < plan_.files.size(); ++i) {
      if (kept_.count(plan_.files[i].name) != 0) release->Checked(i);
    }
    committer.SetOnCommitted(
        [&](std::size_t file, const FileRecord& record) { release->Committed(file, record); });
  }
  Execute(plan_, to_make, *sources_, ExecutorSettings(), committer, progress_, stop_);
  if (release) report_.freed_source_shards = release->freed();
}

void Conversion::Finish(Committer& committer) {
  committer.WriteIndex();
  committer.WriteManifest(
      ManifestText(job_.manifest_job, plan_, *catalog_, committer.records(), side_digests_));
  CleanUp();
  report_.bytes_written = committer.bytes_written();
  ReportFiles(committer.records());
}

void Conversion::CleanUp() {
  // The saved headers go after the journal: without a journal nobody asks for them.
  fs_.Remove(request_.output / kJournalName);
  fs_.SyncDirectory(request_.output);
  RemoveFreedShards(request_.output, fs_);
}

// After --delete-source-shards the same command finds no source any more.
bool Conversion::SourceWasFreedAndOutputIsFinished() const {
  const std::optional<ManifestSummary> manifest = ReadManifest(request_.output);
  if (!manifest || manifest->recipe != report_.recipe || manifest->source_files.empty() ||
      fs::exists(request_.output / kJournalName)) {
    return false;
  }
  const fs::path source =
      fs::is_directory(request_.input) ? request_.input : request_.input.parent_path();
  for (const std::string& name : manifest->source_files) {
    if (fs::exists(source / name)) return false;
  }
  return std::all_of(manifest->files.begin(), manifest->files.end(), [&](const ManifestFile& file) {
    std::error_code error;
    return fs::file_size(request_.output / file.name, error) == file.bytes && !error;
  });
}

}  // namespace

ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop) {
  return Conversion(request, fs, progress, stop).Run();
}

}  // namespace dsv3::convert
