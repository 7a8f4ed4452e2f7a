#include "convert/job/other_job.h"

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "convert/job/job_difference.h"
#include "convert/job/packed_output.h"
#include "convert/plan/container.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

bool IsShard(std::string_view name) { return ContainerOf(name) != nullptr || IsPackedName(name); }

// What to name in place of an output that another job has.
std::string_view OtherPlace(const OutputJob& job) {
  return job.output.empty() ? "another directory" : "another file";
}

// "2 of 5 shards": what the runs of an unfinished job finished.
std::string ShardsOf(const JobJournals& journals) {
  std::set<std::string_view> shards;
  for (const BegunRun& run : journals.runs) {
    for (const std::string& name : run.head.outputs) {
      if (IsShard(name)) shards.insert(name);
    }
  }
  std::size_t finished = 0;
  for (const auto& [name, record] : journals.files) finished += IsShard(name) ? 1 : 0;
  return fmt::format("{} of {} shards", finished, shards.size());
}

// The command that began the run, with what makes it go on; nothing where its journal is of an
// earlier version.
std::string Continuation(const fs::path& directory, const BegunRun& run, const OutputJob& job) {
  if (run.head.command.empty()) return "";
  const std::string command =
      fmt::format("{} {}", run.head.command,
                  job.output.empty() ? formats::ShownAbsolutePath(directory) : job.output);
  if (run.name.kind != RunId::Kind::kPart) return fmt::format("`{}`", command);
  return fmt::format("`{} --part I/{}` for each part I that is missing, then `{} --finish`",
                     command, run.name.count, command);
}

std::string Overwriting(const JobJournals& journals, const OutputJob& job) {
  return fmt::format("{}, which discards what the other run finished ({})",
                     job.run.kind == RunId::Kind::kPart
                         ? "to begin anew run the command without --part and with --overwrite"
                         : "give --overwrite to begin anew",
                     ShardsOf(journals));
}

// The files or paths of the sources differ.
[[noreturn]] void RefuseSource(const fs::path& directory, const BegunRun& run,
                               const JobJournals& journals, const OutputJob& job,
                               const JobDifference& difference) {
  const std::string shown = formats::ShownPath(directory);
  const std::string again = Continuation(directory, run, job);
  const std::string go_on = again.empty() ? "run that command again" : "continue with " + again;
  // rsync -a and cp -p keep times.
  const std::string_view copies =
      difference.only_times ? "where they are copies of the same files, copy them with rsync -a or "
                              "cp -p, which keep the times; "
                            : "";
  std::string message;
  if (run.name.kind == RunId::Kind::kPart) {
    std::string others = difference.input;
    if (!difference.options.empty()) others += (others.empty() ? "" : "; ") + difference.options;
    message = fmt::format(
        "{}: {} was made from another source: {}{}; all parts need the same files with the same "
        "modification times (copies made by rsync -a or cp -p have them): {}; or choose {}; or {}",
        shown, ShownName(run.name), difference.files, others.empty() ? "" : "; " + others, go_on,
        OtherPlace(job), Overwriting(journals, job));
  } else if (!difference.input.empty()) {
    message = fmt::format(
        "{}: another conversion was begun here and not finished: {}; {}{}; or choose {}; or {}",
        shown, difference.Text(), copies, go_on, OtherPlace(job), Overwriting(journals, job));
  } else {
    const std::string_view unknown =
        run.head.input.empty() ? " (or IN is another one: this journal does not record it)" : "";
    message = fmt::format(
        "the source changed since {} was begun{}: {}; {}make the source what it was and {}; or "
        "choose {}; or {}",
        shown, unknown, difference.Text(), copies, go_on, OtherPlace(job),
        Overwriting(journals, job));
  }
  throw Error(ErrorCode::kBadInput, message, {directory.string(), ""});
}

// `whose` is what made the finished output.
[[noreturn]] void RefuseOutputOf(const fs::path& directory, const ManifestSummary& manifest,
                                 const std::string& whose) {
  std::size_t shards = 0;
  std::uint64_t bytes = 0;
  for (const formats::ManifestFile& file : manifest.files) {
    if (!IsShard(file.name)) continue;
    ++shards;
    bytes += file.bytes;
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: holds the finished output of {}; choose another directory, or give "
                          "--overwrite to replace it, which discards its {} finished shard{} ({})",
                          formats::ShownPath(directory), whose, shards, shards == 1 ? "" : "s",
                          formats::ShownBytes(bytes)),
              {directory.string(), ""});
}

}  // namespace

bool IsSameJob(const JournalHead& before, const JournalHead& now) {
  return before.recipe == now.recipe && before.fingerprint == now.fingerprint &&
         CompareJobs(before, now).files.empty();
}

void RefuseBegun(const fs::path& directory, const BegunRun& run, const JobJournals& journals,
                 const OutputJob& job) {
  const JobDifference difference = CompareJobs(run.head, job.head);
  if (difference.command.empty() && !difference.files.empty()) {
    RefuseSource(directory, run, journals, job, difference);
  }
  std::string what = difference.Text();
  if (what.empty()) {
    what = run.head.options.empty()
               ? "its options are not these, and its journal does not record them"
               : "its plan is not that of this command, though the options are the same: another "
                 "version of dsv3 began it, or a file that an option names says something else now";
  }
  const std::string again = Continuation(directory, run, job);
  if (run.name.kind == RunId::Kind::kPart) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: {} was begun by another command or with other options: {}; {}; "
                            "or choose {}; or {}",
                            formats::ShownPath(directory), ShownName(run.name), what,
                            again.empty() ? "give all parts the same" : "continue with " + again,
                            OtherPlace(job), Overwriting(journals, job)),
                {directory.string(), ""});
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: another conversion was begun here and not finished: {}; {}; or "
                          "choose {}; or {}",
                          formats::ShownPath(directory), what,
                          again.empty() ? "run that command again to finish it"
                                        : "continue it with " + again,
                          OtherPlace(job), Overwriting(journals, job)),
              {directory.string(), ""});
}

void RefuseFinished(const fs::path& directory, const ManifestSummary& manifest,
                    const OutputJob& job) {
  std::string what = CompareJobs(HeadOf(manifest.job), HeadOf(job.manifest_job)).Text();
  if (what.empty()) {
    what = manifest.job.dropped != job.manifest_job.dropped
               ? "it left out other tensors of IN, or an older version of dsv3 made it"
           : manifest.job.removed_config != job.manifest_job.removed_config
               ? "the config.json of its IN had other values"
               : "another version of dsv3 made it";
  }
  RefuseOutputOf(directory, manifest, "another command: " + what);
}

void RefuseOtherSource(const fs::path& directory, const ManifestSummary& manifest,
                       std::string_view source, const std::string& file,
                       const std::string& tensor) {
  RefuseOutputOf(directory, manifest,
                 fmt::format("this command on another {}: tensor {} in {} has other bytes than the "
                             "one that the output was made of",
                             source, QuoteForMessage(tensor), file));
}

}  // namespace dsv3::convert
