#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/commit.h"
#include "convert/job/describe_job.h"
#include "convert/job/output_state.h"
#include "convert/job/part_check.h"
#include "convert/job/process_messages.h"
#include "convert/job/run_plan.h"
#include "convert/job/source_use.h"
#include "convert/stream/executor.h"
#include "convert/stream/source_checks.h"

namespace dsv3::convert {

// One run of a plan on an output directory.
class OutputRun {
 public:
  OutputRun(const ModelTensors& source, const Plan& plan, const std::filesystem::path& output,
            const RunOptions& run, const RecipeHooks& hooks, ConversionReport report,
            formats::FileSystem& file_system, ProgressSink& progress, const StopToken& stop)
      : source_(source),
        plan_(plan),
        output_(output),
        run_(run),
        hooks_(hooks),
        assignment_(AssignmentOf(plan, hooks, run)),
        report_(std::move(report)),
        fs_(file_system),
        progress_(progress),
        stop_(stop),
        use_(source),
        sources_(source.catalog, source.derived) {}

  // The run of a process that works alone, or of process 0.
  ConversionReport Run();
  // The run of a process that helps process 0.
  ConversionReport Help();

 private:
  bool IsFinished() const { return state_.kind == OutputState::Kind::kFinished; }
  bool IsUnfinished() const { return state_.kind == OutputState::Kind::kUnfinished; }
  // A warning for the user now, and in the report. Every warning of a run goes this way.
  void Warn(formats::Finding warning);
  void LookAgain();
  void RequireSameSource();
  void TakeEndedFiles();
  void ReportNothingToDo();
  void ReportPlan();
  void RequireParts() const {
    RequireAllParts(output_, plan_, BundlesOf(plan_, hooks_.bundles), state_.journals,
                    WaitsToBeVisible(plan_, run_));
  }
  void TakeFinishedFiles(bool sizes_only);
  std::vector<std::size_t> FilesToMake() const;
  std::uint64_t MissingFiles() const;
  void CheckDisk(const std::vector<std::size_t>& to_make);
  void RemoveEmptyOutput();
  void CheckDerived(const std::vector<std::size_t>& to_make);
  SideDigests FreedSides() const;
  void RequireSources(const std::vector<std::size_t>& to_make) const;
  void RequireSameSides() const;
  JournalHead HeadToWrite() const;
  std::vector<std::string> ReplacedBefore() const;
  std::vector<std::string> UnfinishedNames() const;
  bool MayAbandon() const;
  void Abandon(std::optional<Journal>& journal);
  void Write();
  void WriteWeights(Committer& committer, const std::vector<std::size_t>& to_make);
  void Lead(Committer& committer, const std::vector<std::size_t>& to_make);
  void RequireSameOutput(const JournalHead& head) const;
  void MakePortions(Committer& committer, const std::vector<std::size_t>& to_make,
                    ProgressSink& progress);
  void Make(Committer& committer, std::span<const std::size_t> files, SourceChecks& checks,
            ProgressSink& progress);
  void Finish(Committer& committer);
  void ReportRecords(const FileRecords& records);
  ExecutorOptions ExecutorSettings() const;

  const ModelTensors& source_;
  const Plan& plan_;
  const std::filesystem::path& output_;
  const RunOptions& run_;
  const RecipeHooks& hooks_;
  const RunAssignment assignment_;
  ConversionReport report_;
  formats::FileSystem& fs_;
  ProgressSink& progress_;
  const StopToken& stop_;

  OutputJob job_;
  OutputState state_;
  // The files that earlier runs finished, and that this run has checked; where it does not end the
  // job, only files that it would make itself.
  std::map<std::string, FileRecord> finished_files_;
  std::map<std::string, FileRecord> unchecked_;  // files of other runs, of the right size
  bool ends_ = true;                             // after this run no weight file is missing
  SideDigests side_digests_;
  JournalHead head_;      // of the journal that this run writes
  bool ordered_ = false;  // whether the helpers got the list of files
  std::uint64_t bytes_read_by_helpers_ = 0;
  std::uint64_t bytes_written_by_helpers_ = 0;
  const SourceUse use_;
  SourceFiles sources_;
  std::size_t open_files_ = 0;
  std::vector<std::filesystem::path> created_directories_;
};

}  // namespace dsv3::convert
