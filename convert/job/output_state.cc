#include "convert/job/output_state.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/describe_job.h"
#include "convert/job/manifest.h"
#include "convert/job/other_job.h"
#include "convert/job/output_lock.h"
#include "convert/job/packed_output.h"
#include "convert/job/replaced_files.h"
#include "convert/packing/packed_manifest.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
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

std::string DamageOf(const fs::path& directory, const std::string& name, std::uint64_t expected) {
  const std::optional<std::uint64_t> bytes = FileBytes(directory / name);
  if (!bytes) return fmt::format("{} is missing", name);
  if (*bytes == expected) return "";
  return fmt::format("{} has {}, expected {}", formats::ShownPath(name),
                     formats::ExactBytes(*bytes), formats::ExactBytes(expected));
}

std::string DamageOfShards(const fs::path& directory, const Plan& plan) {
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

// The damage of a finished output; empty when sizes and headers are as its job made them.
std::string Damage(const fs::path& directory, const Plan& plan, const ManifestSummary& manifest) {
  for (const formats::ManifestFile& file : manifest.files) {
    std::string damage = DamageOf(directory, file.name, file.bytes);
    if (!damage.empty()) return damage;
  }
  // The sizes and headers of packed files are not known beforehand.
  if (plan.packed) return "";
  return DamageOfShards(directory, plan);
}

// Whether the output is complete that ends with a manifest of others (Plan::manifest).
bool IsGivenOutput(const fs::path& directory, const Plan& plan) {
  const fs::path& manifest = directory / kManifestName;
  if (FileBytes(manifest) != FileBytes(plan.manifest) ||
      formats::ReadSmallFile(manifest, formats::kMaxManifestBytes) !=
          formats::ReadSmallFile(plan.manifest, formats::kMaxManifestBytes)) {
    return false;
  }
  const auto is_there = [&](const std::string& name, std::uint64_t bytes) {
    return FileBytes(directory / name) == bytes;
  };
  return std::all_of(plan.side_files.begin(), plan.side_files.end(),
                     [&](const PlannedSideFile& side) {
                       return is_there(side.name, SideFileBytes(side));
                     }) &&
         (plan.index.empty() ||
          is_there(std::string(formats::kShardIndexName), plan.index.size())) &&
         DamageOfShards(directory, plan).empty();
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
          !formats::EntryExists(directory / name)) {
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

std::string PartialName(const std::string& name) { return name + ".partial"; }

OutputState LookAtOutput(const fs::path& directory, const OutputJob& job, ProgressSink& progress,
                         const StopToken& stop) {
  OutputState state;
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  if (!fs::exists(status)) {
    if (formats::EntryExists(directory)) {
      RefuseOutput(directory, fmt::format("is a symlink to nothing: it is {}; remove it or name "
                                          "another",
                                          formats::DeadLinkProblem(directory)));
    }
    return state;
  }
  if (!fs::is_directory(status)) {
    RefuseOutput(directory, "is not a directory; the output needs a directory of its own");
  }
  state.exists = true;
  if (IsEmpty(directory)) return state;

  std::optional<ManifestSummary> manifest = LastFileOf(*job.plan) == kPackedManifestName
                                                ? ReadPackedOutput(directory)
                                                : ReadManifest(directory);
  JobJournals journals = ReadJournals(directory, /*skip_unreadable=*/job.overwrite);
  const bool begun = !journals.runs.empty();
  if (!job.plan->manifest.empty() && (!job.overwrite || begun) &&
      IsGivenOutput(directory, *job.plan)) {
    state.kind = OutputState::Kind::kFinished;
    return state;
  }
  const bool same_manifest = manifest && manifest->job_text == job.manifest_job_text;

  // With overwrite a finished output is made again, but a job of its own that is under way goes on.
  if (same_manifest && (!job.overwrite || begun)) {
    const std::string damage = Damage(directory, *job.plan, *manifest);
    if (damage.empty()) {
      state.kind = OutputState::Kind::kFinished;
      state.manifest = std::move(manifest);
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
      begun && std::all_of(journals.runs.begin(), journals.runs.end(),
                           [&](const BegunRun& run) { return IsSameJob(run.head, job.head); });
  if (same_job) {
    if (job.run.kind == RunId::Kind::kPart) RequireRoomForPart(directory, journals, job);
    if (job.overwrite) RequireReplaceable(directory, job);
    for (const BegunRun& run : journals.runs) {
      state.replaced.insert(state.replaced.end(), run.head.replaced.begin(),
                            run.head.replaced.end());
    }
    std::vector<std::string> ours = state.replaced;
    for (const auto& [name, record] : journals.files) ours.push_back(name);
    ours.emplace_back(LastFileOf(*job.plan));
    for (const std::string& name : FilesInTheWay(directory, job, ours)) {
      if (!job.overwrite) RefuseInTheWay(directory, name, job);
      state.replaced.push_back(name);
    }
    state.kind = OutputState::Kind::kUnfinished;
    state.journals = std::move(journals);
    return state;
  }
  if (!job.overwrite) {
    for (const BegunRun& run : journals.runs) {
      if (!IsSameJob(run.head, job.head)) RefuseBegun(directory, run, journals, job);
    }
    if (manifest) RefuseFinished(directory, *manifest, job);
    RefuseFiles(directory, job);
  }

  RequireReplaceable(directory, job);
  // Whatever earlier job ended there.
  FilesToReplace files = FindFilesToReplace(directory, job,
                                            {{kManifestName, ReadManifest(directory)},
                                             {kPackedManifestName, ReadPackedOutput(directory)}},
                                            journals, progress, stop);
  state.replaced = std::move(files.replaced);
  state.changed = std::move(files.changed);
  state.journals = std::move(journals);
  return state;
}

void ClearOutput(const fs::path& directory, const std::vector<std::string>& unfinished,
                 const std::vector<std::string>& replaced, formats::FileSystem& file_system) {
  std::set<fs::path> touched;
  const auto remove = [&](const std::string& name) {
    const fs::path path = directory / name;
    if (!formats::EntryExists(path)) return;
    file_system.Remove(path);
    touched.insert(path.parent_path());
  };
  // In the reverse order of their making: packed.json and the manifest say that all files are
  // there, layout.json that all ranks are, the index that all shards are. Without these four files
  // no reader takes the remaining files for a whole checkpoint.
  for (const std::string_view last :
       {kPackedManifestName, kManifestName, formats::kRankLayoutName, formats::kShardIndexName}) {
    const std::string name(last);
    if (std::count(replaced.begin(), replaced.end(), name) == 0 ||
        !formats::EntryExists(directory / name)) {
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
