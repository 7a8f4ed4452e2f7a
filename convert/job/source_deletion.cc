#include "convert/job/source_deletion.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <system_error>

#include <fmt/format.h>
#include <sys/stat.h>

#include "convert/job/deletion_permission.h"
#include "convert/job/link_way.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

struct stat StatusOf(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw IoError("look at", path.string(), errno);
  return status;
}

bool IsLink(const fs::path& path) {
  std::error_code error;
  return fs::is_symlink(fs::symlink_status(path, error));
}

fs::path RealPath(const fs::path& path) {
  std::error_code error;
  fs::path real = fs::canonical(path, error);
  if (error) throw IoError("find", path.string(), error.value());
  return real;
}

bool IsBelow(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

// A hub cache keeps MODEL/blobs and MODEL/snapshots/COMMIT.
bool IsSnapshot(const fs::path& directory) {
  std::error_code error;
  return directory.parent_path().filename() == "snapshots" &&
         fs::is_directory(directory.parent_path().parent_path() / "blobs", error);
}

[[noreturn]] void RefuseLink(const fs::path& link, const fs::path& real) {
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: --delete-source-shards would delete files in {}, to which this link "
                          "leads; give that directory itself if its files may go, or leave the "
                          "option out",
                          formats::ShownPath(link), formats::ShownPath(real)),
              {link.string(), ""});
}

}  // namespace

DeletionRules::DeletionRules(const fs::path& directory) : directory_(RealPath(directory)) {
  if (IsLink(directory)) RefuseLink(directory, directory_);
  if (!IsSnapshot(directory_)) {
    FindLinks(directory_);
    return;
  }
  const fs::path snapshots = directory.parent_path();
  for (const fs::path& parent : {snapshots, snapshots.parent_path()}) {
    if (IsLink(parent)) RefuseLink(parent, RealPath(parent));
  }
  const fs::path repository = directory_.parent_path().parent_path();
  hub_ = repository.parent_path();
  // Blobs that are a link to another place may be anybody's.
  if (!IsLink(repository / "blobs")) blobs_ = repository / "blobs";
  std::error_code error;
  for (fs::directory_iterator entry(hub_, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (!fs::is_directory(entry->path() / "blobs", ignored) &&
        !fs::is_directory(entry->path() / "snapshots", ignored)) {
      continue;
    }
    if (IsLink(entry->path())) RefuseDirectoryLink(entry->path());
    FindLinks(entry->path());
  }
  if (error) throw IoError("list", hub_.string(), error.value());
}

void DeletionRules::FindLinks(const fs::path& directory) {
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_symlink(ignored)) AddLink(entry->path());
  }
  // A link that cannot be seen may lead to any file.
  if (error) throw IoError("look for links in", directory.string(), error.value());
}

void DeletionRules::AddLink(const fs::path& link) {
  struct stat status {};
  if (::stat(link.c_str(), &status) != 0) return;  // a dead one leads to nothing
  if (S_ISDIR(status.st_mode)) return RefuseDirectoryLink(link);
  links_.emplace(FileId(status.st_dev, status.st_ino), link);
  const std::vector<fs::path> way = LinkWay(link);
  for (std::size_t i = 1; i + 1 < way.size(); ++i) passing_.emplace(way[i], link);
}

// A link of the hub cache to a directory, such as snapshots/main to a commit.
void DeletionRules::RefuseDirectoryLink(const fs::path& link) const {
  const fs::path real = RealPath(link);
  if (hub_.empty() || real == hub_ || !IsBelow(directory_, real) || !IsBelow(real, hub_)) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: this link leads to the files that --delete-source-shards would "
                          "delete, so they would vanish there, too; remove the link, or leave the "
                          "option out",
                          formats::ShownPath(link)),
              {link.string(), ""});
}

SourceDeletion DeletionRules::Of(const fs::path& shard) const {
  const fs::path parent = RealPath(shard.parent_path());
  if (!IsBelow(parent, directory_)) RefuseLink(shard.parent_path(), parent);
  SourceDeletion deletion;
  deletion.shard = parent / shard.filename();
  deletion.file = RealPath(shard);
  if (const auto passing = passing_.find(deletion.shard); passing != passing_.end()) {
    deletion.kept = SourceDeletion::Kept::kPassed;
    deletion.other_link = passing->second;
    return deletion;
  }
  const bool is_inside = IsBelow(deletion.file, directory_);
  if (!is_inside && (blobs_.empty() || !IsBelow(deletion.file, blobs_))) {
    deletion.kept = SourceDeletion::Kept::kOutside;
    return deletion;
  }
  const struct stat status = StatusOf(deletion.file);
  const auto [begin, end] = links_.equal_range(FileId(status.st_dev, status.st_ino));
  for (auto link = begin; link != end; ++link) {
    if (link->second == deletion.shard) continue;
    // A file of the directory itself goes under its own name whatever the directory has beside it.
    if (!deletion.is_link() && IsBelow(link->second, directory_)) continue;
    deletion.kept = SourceDeletion::Kept::kLinked;
    deletion.other_link = link->second;
    return deletion;
  }
  if (status.st_nlink == 1) deletion.freed_bytes = static_cast<std::uint64_t>(status.st_size);
  return deletion;
}

std::vector<SourceDeletion> PlanDeletion(const fs::path& directory,
                                         std::span<const fs::path> shards) {
  std::vector<SourceDeletion> deletions;
  const DeletionRules rules(directory);
  for (const fs::path& shard : shards) {
    if (formats::Exists(shard)) deletions.push_back(rules.Of(shard));
  }
  for (const SourceDeletion& deletion : deletions) {
    if (deletion.shard_goes()) RequireDeletable(deletion.shard);
    if (deletion.is_link() && deletion.file_goes()) RequireDeletable(deletion.file);
  }
  return deletions;
}

}  // namespace dsv3::convert
