#include "convert/job/output_state.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "convert/job/replaced_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/rank_layout.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// The root of a freshly made file system is not quite empty.
bool IsEmpty(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) throw IoError("list", directory.string(), error.value());
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    const bool is_torn_journal = name.starts_with(kJournalName) && name.ends_with(".partial");
    if (name != "lost+found" && !is_torn_journal && !RunOfFile(kLockName, name)) return false;
  }
  return true;
}

bool SameSource(const JournalSource& a, const JournalSource& b) {
  return a.checkpoint == b.checkpoint && a.name == b.name;
}

std::string ShownName(const JournalSource& source) {
  return source.checkpoint.empty() ? source.name
                                   : fmt::format("{} of --{}", source.name, source.checkpoint);
}

std::string SourceChange(const JournalHead& before, const JournalHead& now) {
  for (const JournalSource& source : before.sources) {
    const std::string name = ShownName(source);
    const auto found =
        std::find_if(now.sources.begin(), now.sources.end(),
                     [&](const JournalSource& other) { return SameSource(other, source); });
    if (found == now.sources.end()) return fmt::format("{} is gone", name);
    if (found->bytes != source.bytes) {
      return fmt::format("{} had {} bytes and now has {}", name, source.bytes, found->bytes);
    }
    if (found->header_digest != source.header_digest) {
      return fmt::format("{} has another header", name);
    }
    if (found->mtime_ns != source.mtime_ns) return fmt::format("{} was modified", name);
  }
  for (const JournalSource& source : now.sources) {
    if (std::none_of(before.sources.begin(), before.sources.end(),
                     [&](const JournalSource& other) { return SameSource(other, source); })) {
      return fmt::format("{} is new", ShownName(source));
    }
  }
  return "";
}

// The damage of a finished output; empty when sizes and headers are as its job made them.
std::string Damage(const fs::path& directory, const Plan& plan, const ManifestSummary& manifest) {
  for (const formats::ManifestFile& file : manifest.files) {
    const std::optional<std::uint64_t> bytes = FileBytes(directory / file.name);
    if (!bytes) return fmt::format("{} is missing", file.name);
    if (*bytes != file.bytes) {
      return fmt::format("{} has {} bytes, expected {}", file.name, *bytes, file.bytes);
    }
  }
  for (const PlannedFile& file : plan.files) {
    const std::optional<std::uint64_t> bytes = FileBytes(directory / file.name);
    if (!bytes || *bytes != file.bytes) return fmt::format("{} has the wrong size", file.name);
    const formats::InputFile input(directory / file.name, file.name);
    std::vector<std::byte> header(static_cast<std::size_t>(file.data_offset));
    input.ReadAt(0, header);
    if (formats::Xxh3Hex(header) != file.header_digest) {
      return fmt::format("{} has another header", file.name);
    }
  }
  return "";
}

bool IsSameJob(const JournalHead& head, const OutputJob& job) {
  return head.recipe == job.head.recipe && head.fingerprint == job.head.fingerprint;
}

// How the source of a begun run differs from this one's; empty where it does not.
std::string ChangeSince(const BegunRun& run, const OutputJob& job) {
  return SourceChange(run.head, job.head);
}

// Refuses to go on with what a run of another job, or of another source, began.
void RequireSameJob(const fs::path& directory, const BegunRun& run, const OutputJob& job) {
  const bool is_part = run.name.kind == RunId::Kind::kPart;
  const std::string_view anew = job.run.kind == RunId::Kind::kPart
                                    ? "to begin anew run the command without --part and with "
                                      "--overwrite"
                                    : "give --overwrite to begin anew";
  const std::string change = ChangeSince(run, job);
  if (!change.empty() && run.head.recipe == job.head.recipe) {
    throw Error(ErrorCode::kBadInput,
                is_part ? fmt::format("{}: {} was made from another source: {}; all parts need "
                                      "the same files with the same modification times (copies "
                                      "made by rsync -a or cp -p have them); {}",
                                      directory.string(), ShownName(run.name), change, anew)
                        : fmt::format("the source changed since {} was begun: {}; {}",
                                      directory.string(), change, anew),
                {directory.string(), ""});
  }
  if (IsSameJob(run.head, job) && change.empty()) return;
  if (is_part) {
    RefuseOutput(directory,
                 fmt::format("{} was begun by another command or with other options; give "
                             "all parts the same, or choose another directory",
                             ShownName(run.name)));
  }
  RefuseOutput(directory,
               fmt::format("another conversion was begun here and not finished; run that "
                           "command again to finish it, or {}",
                           anew));
}

// Refuses a part where the directory holds a run that it must not run beside.
void RequireRoomForPart(const fs::path& directory, const JobJournals& journals,
                        const OutputJob& job) {
  for (const BegunRun& run : journals.runs) {
    if (run.name.kind == RunId::Kind::kPart && run.name.count != job.run.count) {
      RefuseOutput(
          directory,
          fmt::format("{} was begun here, and this is {}; give all parts the same number, or "
                      "run the same command without --part to do all that is left",
                      ShownName(run.name), ShownName(job.run)));
    }
    // A part must not remove these files: other parts may have replaced them by now.
    if (run.name.kind != RunId::Kind::kJob) continue;
    for (const std::string& name : run.head.replaced) {
      const bool is_ours = std::count(job.writes.begin(), job.writes.end(), name) != 0;
      if (is_ours || name.ends_with(PartialName("")) || journals.files.count(name) != 0 ||
          !IsThere(directory / name)) {
        continue;
      }
      RefuseOutput(directory, fmt::format("{} is to be replaced by this job, and a part cannot do "
                                          "that; run the same command without --part",
                                          name));
    }
  }
}

[[noreturn]] void RefuseInTheWay(const fs::path& directory, const std::string& name,
                                 const OutputJob& job) {
  RefuseOutput(
      directory,
      fmt::format("{} is in the way, and no run of this command made it; move it away, {}", name,
                  job.run.kind == RunId::Kind::kPart ? "or choose another directory"
                                                     : "or give --overwrite to replace it"));
}

// The refusal of a directory that holds files of others alone.
[[noreturn]] void RefuseFiles(const fs::path& directory, const OutputJob& job) {
  const std::vector<std::string> there = FilesInTheWay(directory, job, {});
  const std::string which =
      there.empty()
          ? "this command writes none of the files that are there"
          : fmt::format("it replaces {}{} and leaves other files alone", there.front(),
                        there.size() == 1 ? "" : fmt::format(" and {} more", there.size() - 1));
  RefuseOutput(
      directory,
      fmt::format("is not empty; choose another directory, or give --overwrite: {}", which));
}

}  // namespace

std::string DifferenceOf(const JournalHead& other, const JournalHead& job) {
  std::string change = SourceChange(other, job);
  if (change.empty() && other.fingerprint != job.fingerprint) change = "the options differ";
  return change;
}

std::string PartialName(const std::string& name) { return name + ".partial"; }

OutputState LookAtOutput(const fs::path& directory, const OutputJob& job) {
  OutputState state;
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  if (!fs::exists(status)) {
    if (IsThere(directory))
      RefuseOutput(directory, "is a symlink to nothing; remove it or name another");
    return state;
  }
  if (!fs::is_directory(status)) {
    RefuseOutput(directory, "is not a directory; the output needs a directory of its own");
  }
  state.exists = true;
  if (IsEmpty(directory)) return state;

  const std::optional<ManifestSummary> manifest = ReadManifest(directory);
  JobJournals journals = ReadJournals(directory, /*skip_unreadable=*/job.overwrite);
  const bool begun = !journals.runs.empty();
  const bool same_manifest = manifest && manifest->job == job.manifest_job;

  // With overwrite a finished output is made again, but a job of its own that is under way goes on.
  if (same_manifest && (!job.overwrite || begun)) {
    const std::string damage = Damage(directory, *job.plan, *manifest);
    if (damage.empty()) {
      state.kind = OutputState::Kind::kFinished;
      return state;
    }
    if (!begun && !job.overwrite) {
      RefuseOutput(directory,
                   fmt::format("this conversion was finished here, but {}; give --overwrite "
                               "to convert again",
                               damage));
    }
  }
  const bool same_job =
      begun && std::all_of(journals.runs.begin(), journals.runs.end(), [&](const BegunRun& run) {
        return IsSameJob(run.head, job) && ChangeSince(run, job).empty();
      });
  if (same_job) {
    if (job.run.kind == RunId::Kind::kPart) RequireRoomForPart(directory, journals, job);
    if (job.overwrite) RequireReplaceable(directory, job);
    for (const BegunRun& run : journals.runs) {
      state.replaced.insert(state.replaced.end(), run.head.replaced.begin(),
                            run.head.replaced.end());
    }
    std::vector<std::string> ours = state.replaced;
    for (const auto& [name, record] : journals.files) ours.push_back(name);
    ours.emplace_back(kManifestName);
    for (const std::string& name : FilesInTheWay(directory, job, ours)) {
      if (!job.overwrite) RefuseInTheWay(directory, name, job);
      state.replaced.push_back(name);
    }
    state.kind = OutputState::Kind::kUnfinished;
    state.journals = std::move(journals);
    return state;
  }
  if (!job.overwrite) {
    for (const BegunRun& run : journals.runs) RequireSameJob(directory, run, job);
    if (manifest) {
      RefuseOutput(directory,
                   "holds the finished output of another command; choose another directory, "
                   "or give --overwrite to replace it");
    }
    RefuseFiles(directory, job);
  }

  RequireReplaceable(directory, job);
  state.replaced = FilesToReplace(directory, job, manifest, journals);
  state.journals = std::move(journals);
  return state;
}

void ClearOutput(const fs::path& directory, const std::vector<std::string>& unfinished,
                 const std::vector<std::string>& replaced, formats::FileSystem& file_system) {
  std::set<fs::path> touched;
  const auto remove = [&](const std::string& name) {
    const fs::path path = directory / name;
    if (!IsThere(path)) return;
    file_system.Remove(path);
    touched.insert(path.parent_path());
  };
  // In the reverse order of their making: the manifest says that all files are there, layout.json
  // that all ranks are, the index that all shards are. Without these three files no reader takes
  // the remaining files for a whole checkpoint.
  for (const std::string_view last :
       {kManifestName, formats::kRankLayoutName, formats::kShardIndexName}) {
    const std::string name(last);
    if (std::count(replaced.begin(), replaced.end(), name) == 0 || !IsThere(directory / name)) {
      continue;
    }
    file_system.Remove(directory / name);
    file_system.SyncDirectory(directory);
  }
  for (const std::string& name : replaced) remove(name);
  for (const std::string& name : unfinished) remove(PartialName(name));
  for (const fs::path& path : touched) file_system.SyncDirectory(path);
}

void JoinJournals(const fs::path& directory, const JobJournals& journals,
                  formats::FileSystem& file_system) {
  const bool alone =
      journals.runs.empty() || (journals.runs.size() == 1 && journals.runs[0].name == RunId());
  if (alone) return;
  JournalHead head = journals.runs[0].head;
  for (const BegunRun& run : std::span(journals.runs).subspan(1)) {
    head.outputs.insert(head.outputs.end(), run.head.outputs.begin(), run.head.outputs.end());
    head.replaced.insert(head.replaced.end(), run.head.replaced.begin(), run.head.replaced.end());
    if (head.sides.empty()) head.sides = run.head.sides;
  }
  for (std::vector<std::string>* names : {&head.outputs, &head.replaced}) {
    std::sort(names->begin(), names->end());
    names->erase(std::unique(names->begin(), names->end()), names->end());
  }
  std::vector<FileRecord> records;
  for (const auto& [name, record] : journals.files) records.push_back(record);
  { const Journal joined(file_system, directory, head, records); }
  // A crash before they are gone leaves two journals with the same lines.
  RemoveJournals(directory, /*but_the_jobs=*/true, file_system);
}

}  // namespace dsv3::convert
