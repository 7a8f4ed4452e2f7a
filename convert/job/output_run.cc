#include "convert/job/output_run.h"

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/finished_output.h"
#include "convert/job/job_difference.h"
#include "convert/job/journal.h"
#include "convert/job/manifest.h"
#include "convert/job/other_job.h"
#include "convert/job/plan_report.h"
#include "convert/job/source_release.h"
#include "convert/job/work_division.h"
#include "convert/stream/output_digests.h"
#include "convert/stream/shared_reads.h"
#include "formats/error.h"
#include "formats/message_text.h"

// The functions of OutputRun that write weights, complete the output and report its files.
namespace dsv3::convert {
namespace {

// The number of portions for each process. With more portions, the processes end closer together
// when some are slow. But at the end of each portion the pipeline runs empty, and where files share
// reads, each portion reads again the tensors that all ranks hold.
constexpr std::size_t kPortions = 4;
constexpr std::size_t kPortionsOfSharedReads = 2;

// Plan::manifest as a file to copy.
PlannedSideFile GivenManifest(const Plan& plan) {
  return {std::string(kManifestName), plan.manifest, {}, plan.manifest_sha256};
}

}  // namespace

void OutputRun::WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make) {
  SourceChecks checks(plan_, to_make, sources_);
  if (!IsShared(run_.sharing)) {
    checks.CheckApart(ResolveThreads(run_.threads), progress_, stop_);
  }
  std::uint64_t total_bytes = 0;
  for (const std::size_t file : to_make) {
    total_bytes += plan_.files[file].bytes + PlannedRest(plan_.files[file]);
  }
  if (assignment_.side_files) {
    for (const PlannedSideFile& side : plan_.side_files) {
      if (!side.source.empty() && finished_files_.count(side.name) == 0)
        total_bytes += SideFileBytes(side);
    }
  }
  if (ends_ && !plan_.manifest.empty()) total_bytes += SideFileBytes(GivenManifest(plan_));
  progress_.OnPhase("converting", total_bytes);
  if (assignment_.side_files) committer.WriteSideFiles(progress_, stop_);

  std::optional<SourceRelease> release;
  if (run_.delete_source_shards) {
    release.emplace(fs_, output_, source_.directory, plan_, use_, sources_, stop_);
    for (std::size_t i = 0; i < plan_.files.size(); ++i) {
      if (finished_files_.count(plan_.files[i].name) != 0) release->Checked(i);
    }
    committer.SetOnCommitted(
        [&](std::size_t file, const FileRecord& record) { release->Committed(file, record); });
  }
  const std::size_t assigned = ends_ ? plan_.files.size() : assignment_.files.size();
  try {
    if (IsShared(run_.sharing)) {
      Lead(committer, to_make);
    } else {
      Make(committer, to_make, checks, progress_);
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInterrupted) throw;
    throw Error(ErrorCode::kInterrupted,
                fmt::format("interrupted; {} of {} weight files are finished, run the same command "
                            "again to continue from there",
                            assigned - to_make.size() + committer.committed_files(), assigned));
  }
  if (release) ReportDeletions(release->deletions(), report_);
}

void OutputRun::Make(Committer& committer, std::span<const std::size_t> files, SourceChecks& checks,
                     ProgressSink& progress) {
  ExecutorOptions options = ExecutorSettings();
  options.checks = &checks;
  const auto execute = plan_.shared_reads ? ExecuteSharedReads : Execute;
  execute(plan_, files, sources_, options, committer, progress, stop_);
}

// Makes portions until all are taken. Each portion is taken by one process.
void OutputRun::MakePortions(Committer& committer, const std::vector<std::size_t>& to_make,
                             ProgressSink& progress) {
  const std::size_t each = plan_.shared_reads ? kPortionsOfSharedReads : kPortions;
  const std::vector<std::vector<std::size_t>> portions =
      WorkUnits(plan_, BundlesOf(plan_, hooks_.bundles), to_make, each * run_.sharing->processes());
  ProgressSink silent;  // for reads that the announced bytes do not count
  while (true) {
    const std::uint64_t next = run_.sharing->Next();
    if (next >= portions.size()) return;
    const std::vector<std::size_t>& files = portions[next];
    if (hooks_.prepare) hooks_.prepare(files, sources_, silent);
    SourceChecks checks(plan_, files, sources_);
    checks.CheckApart(ResolveThreads(run_.threads), silent, stop_);
    Make(committer, files, checks, progress);
  }
}

// Process 0: sends the helpers the list of files, makes portions itself, and takes over the files
// that the helpers made.
void OutputRun::Lead(Committer& committer, const std::vector<std::size_t>& to_make) {
  struct Showing {
    Showing(WorkSharing& to, ProgressSink& progress) : sharing(to) { sharing.ShowBytes(&progress); }
    ~Showing() { sharing.ShowBytes(nullptr); }
    Showing(const Showing&) = delete;
    Showing& operator=(const Showing&) = delete;
    WorkSharing& sharing;
  };
  // Before the helpers begin: their first bytes count, too.
  const Showing showing(*run_.sharing, progress_);
  ordered_ = true;
  run_.sharing->Broadcast(WorkOrderText({head_, {to_make.begin(), to_make.end()}}));
  MakePortions(committer, to_make, progress_);
  const std::vector<std::string> results = run_.sharing->Gather("");
  for (std::size_t process = 1; process < results.size(); ++process) {
    WorkResult result = ParseWorkResult(results[process]);
    bytes_read_by_helpers_ += result.bytes_read;
    bytes_written_by_helpers_ += result.bytes_written;
    committer.Adopt(std::move(result.records));
  }
}

// Throws unless this helper sees the source and the output directory that process 0 sees.
void OutputRun::RequireSameOutput(const JournalHead& head) const {
  if (!IsSameJob(head, job_.head)) {
    const std::string difference = CompareJobs(head, job_.head).Text();
    throw Error(ErrorCode::kBadInput,
                fmt::format("process {} does not see the source that process 0 sees: {}; all "
                            "processes need the same files with the same modification times",
                            run_.sharing->process(),
                            difference.empty() ? "the options differ" : difference));
  }
  const std::optional<JournalState> journal = Journal::Read(output_);
  if (journal && IsSameJob(journal->head, head)) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: process {} does not see the directory that process 0 writes to; all "
                          "processes need it on a file system that they share",
                          formats::ShownPath(output_), run_.sharing->process()),
              {output_.string(), ""});
}

ConversionReport OutputRun::Help() {
  report_.outcome = ConversionReport::Outcome::kNothingToDo;
  const std::string text = run_.sharing->Broadcast("");
  if (text.empty()) return std::move(report_);
  const WorkOrder order = ParseWorkOrder(text);
  job_ = DescribeJob(source_, plan_, hooks_, run_, assignment_);
  RequireSameOutput(order.head);
  std::optional<Journal> journal;
  journal.emplace(fs_, output_, order.head, std::vector<FileRecord>(),
                  RunId{RunId::Kind::kProcess, run_.sharing->process(), 1});
  Committer committer(fs_, output_, plan_, *journal, run_, {});
  HelperProgress progress(*run_.sharing, progress_);
  MakePortions(committer, {order.files.begin(), order.files.end()}, progress);
  // Closed before process 0 removes it.
  journal.reset();
  WorkResult result{sources_.bytes_read(), committer.bytes_written(), {}};
  for (const auto& [name, record] : committer.records()) result.records.push_back(record);
  run_.sharing->Gather(WorkResultText(result));
  report_.outcome = ConversionReport::Outcome::kPartDone;
  return std::move(report_);
}

void OutputRun::Finish(Committer& committer) {
  committer.MakeVisible();
  committer.WriteIndex();
  if (!hooks_.closing_name.empty()) {
    committer.WriteText(hooks_.closing_name,
                        hooks_.closing_text(committer.records(), job_.head.fingerprint));
  }
  if (!plan_.manifest.empty()) {
    committer.CopyLast(GivenManifest(plan_), progress_, stop_);
  } else if (hooks_.last_text) {
    committer.WriteLast(LastFileOf(plan_), hooks_.last_text(committer.records()));
  } else {
    committer.WriteLast(LastFileOf(plan_), ManifestText(job_.manifest_job_text, plan_, source_,
                                                        committer.records(), side_digests_));
  }
  RemoveLeftovers(output_, fs_);
}

// Marks all files as finished; what packed ones are like is known from packed.json alone.
void OutputRun::TakeEndedFiles() {
  for (const PlannedFile& file : plan_.files) finished_files_[file.name].name = file.name;
  if (!plan_.packed) return;
  for (const formats::ManifestFile& file : state_.manifest->files) {
    const auto found = finished_files_.find(file.name);
    if (found != finished_files_.end()) found->second.bytes = file.bytes;
  }
}

void OutputRun::ReportRecords(const FileRecords& records) {
  std::vector<std::size_t> files = assignment_.files;
  if (ends_) {
    files.resize(plan_.files.size());
    std::iota(files.begin(), files.end(), std::size_t{0});
  }
  ReportFiles(plan_, files, finished_files_, records, report_);
  if (run_.link) report_.facts.push_back(LinkedFiles(plan_, output_));
}

}  // namespace dsv3::convert
