#include "convert/execute/output_state.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/execute/manifest.h"
#include "convert/execute/output_lock.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/input_file.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// lstat: a dangling symlink is there too.
bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

std::optional<std::uint64_t> FileBytes(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  const std::uint64_t bytes = fs::file_size(path, error);
  if (error) return std::nullopt;
  return bytes;
}

[[noreturn]] void Refuse(const fs::path& directory, std::string message) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: {}", directory.string(), message),
              {directory.string(), ""});
}

// The root of a freshly made file system is not quite empty.
bool IsEmpty(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) throw IoError("list", directory.string(), error.value());
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (name != "lost+found" && name != kLockName &&
        name != fmt::format("{}.partial", kJournalName)) {
      return false;
    }
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

// What of a finished output is not as its job made it; empty when sizes and headers are right.
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

// Refuses to remove a file that somebody changed after dsv3 made it.
void RequireUnchanged(const fs::path& directory, const std::string& name, std::uint64_t bytes) {
  const std::optional<std::uint64_t> found = FileBytes(directory / name);
  if (!found || *found == bytes) return;
  Refuse(directory, fmt::format("{} was changed since dsv3 made it ({} bytes, was {}); move it "
                                "away, --overwrite does not delete it",
                                name, *found, bytes));
}

// Names of the job's outputs that are there, but not from it or a job that it replaces.
void RefuseForeign(const fs::path& directory, const JournalHead& head,
                   const std::set<std::string>& ours) {
  for (const std::string& name : head.outputs) {
    if (Exists(directory / name) && ours.count(name) == 0) {
      Refuse(directory, fmt::format("{} is in the way, and dsv3 did not make it; move it away or "
                                    "choose another directory",
                                    name));
    }
  }
}

}  // namespace

std::string PartialName(const std::string& name) { return name + ".partial"; }

OutputState LookAtOutput(const fs::path& directory, const OutputJob& job) {
  OutputState state;
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  if (!fs::exists(status)) {
    if (Exists(directory)) Refuse(directory, "is a symlink to nothing; remove it or name another");
    return state;
  }
  if (!fs::is_directory(status)) {
    Refuse(directory, "is not a directory; the output needs a directory of its own");
  }
  state.exists = true;
  if (IsEmpty(directory)) return state;

  const std::optional<ManifestSummary> manifest = ReadManifest(directory);
  std::optional<JournalState> journal = Journal::Read(directory);
  const bool same_manifest = manifest && manifest->job == job.manifest_job;
  const bool same_job = journal && journal->head.recipe == job.head.recipe &&
                        journal->head.fingerprint == job.head.fingerprint;
  const std::string change = journal ? SourceChange(journal->head, job.head) : std::string();

  // With overwrite a finished output is made again, but a job of its own that is under way goes on.
  if (same_manifest && (!job.overwrite || journal)) {
    const std::string damage = Damage(directory, *job.plan, *manifest);
    if (damage.empty()) {
      state.kind = OutputState::Kind::kFinished;
      return state;
    }
    if (!journal && !job.overwrite) {
      Refuse(directory, fmt::format("this conversion was finished here, but {}; give --overwrite "
                                    "to convert again",
                                    damage));
    }
  }
  if (same_job && change.empty()) {
    std::set<std::string> ours(journal->head.replaced.begin(), journal->head.replaced.end());
    for (const auto& [name, record] : journal->files) ours.insert(name);
    ours.insert(std::string(kManifestName));
    RefuseForeign(directory, job.head, ours);
    state.kind = OutputState::Kind::kUnfinished;
    state.replaced = journal->head.replaced;
    state.journal = std::move(journal);
    return state;
  }
  if (!job.overwrite) {
    if (journal && !change.empty() && journal->head.recipe == job.head.recipe) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("the source changed since {} was begun: {}; give --overwrite to "
                              "begin anew",
                              directory.string(), change),
                  {directory.string(), ""});
    }
    if (journal) {
      Refuse(directory,
             "another conversion was begun here and not finished; run that command "
             "again to finish it, or give --overwrite to begin anew");
    }
    if (manifest) {
      Refuse(directory,
             "holds the finished output of another command; choose another directory, "
             "or give --overwrite to replace it");
    }
    Refuse(directory,
           "is not empty; choose another directory (--overwrite replaces only what "
           "dsv3 made)");
  }

  std::set<std::string> replaced;
  if (manifest) {
    for (const formats::ManifestFile& file : manifest->files) {
      if (!FileBytes(directory / file.name)) continue;
      RequireUnchanged(directory, file.name, file.bytes);
      replaced.insert(file.name);
    }
    replaced.insert(std::string(kManifestName));
  }
  if (journal) {
    for (const auto& [name, record] : journal->files) {
      RequireUnchanged(directory, name, record.bytes);
      replaced.insert(name);
    }
    replaced.insert(journal->head.replaced.begin(), journal->head.replaced.end());
    for (const std::string& name : journal->head.outputs) replaced.insert(PartialName(name));
  }
  RefuseForeign(directory, job.head, replaced);
  state.replaced.assign(replaced.begin(), replaced.end());
  return state;
}

void ClearOutput(const fs::path& directory, const JournalHead& head,
                 const std::map<std::string, FileRecord>& keep, formats::FileSystem& file_system) {
  std::set<fs::path> touched;
  const auto remove = [&](const std::string& name) {
    const fs::path path = directory / name;
    if (!Exists(path)) return;
    file_system.Remove(path);
    touched.insert(path.parent_path());
  };
  const auto gives_way = [&](const std::string& name) { return keep.count(name) == 0; };
  // In the reverse order of their making: the manifest says that all files are there, the index
  // that all shards are. Without them nobody takes what is left for a whole checkpoint.
  for (const std::string_view last : {kManifestName, formats::kShardIndexName}) {
    const std::string name(last);
    if (std::count(head.replaced.begin(), head.replaced.end(), name) == 0 || !gives_way(name) ||
        !Exists(directory / name)) {
      continue;
    }
    file_system.Remove(directory / name);
    file_system.SyncDirectory(directory);
  }
  for (const std::string& name : head.replaced) {
    if (gives_way(name)) remove(name);
  }
  for (const std::string& name : head.outputs) remove(PartialName(name));
  for (const fs::path& path : touched) file_system.SyncDirectory(path);
}

}  // namespace dsv3::convert
