#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace dsv3::convert {

// The deletion of one source shard by --delete-source-shards. All paths are real ones: no directory
// on the way is a link.
struct SourceDeletion {
  enum class Kept {
    kNo,       // the file is deleted
    kOutside,  // the file is not in the directory that was named, nor in its repository's blobs
    kLinked,   // another link leads to the file
    kPassed,   // another link leads through the shard, which is a link and is not deleted either
  };
  std::filesystem::path shard;  // the shard's name in the source directory
  std::filesystem::path file;  // the file with the bytes; differs from `shard` where that is a link
  Kept kept = Kept::kNo;
  std::filesystem::path other_link;  // kLinked, kPassed: one of these links
  std::uint64_t freed_bytes = 0;     // 0 also where the file has another hard link

  bool is_link() const { return shard != file; }
  bool file_goes() const { return kept == Kept::kNo; }
  // A shard that is a link: at least the link is deleted, unless another one leads through it.
  bool shard_goes() const { return file_goes() || (is_link() && kept != Kept::kPassed); }
};

// Says which files of a source directory may be deleted: those in the directory itself and, where
// it is a snapshot of a hub repository, those in the repository's blobs that no other link of the
// hub cache leads to. Of a link to any other file only the link may be deleted. The links are
// looked at once, when it is made. Thread-safe.
class DeletionRules {
 public:
  // Throws Error (kUsage) where the directory is reached through a link of its own, so that its
  // files may be somebody else's, and where another link of the hub cache leads to the directory or
  // its repository, for its files would vanish there, too.
  explicit DeletionRules(const std::filesystem::path& directory);

  // `shard` is a file, or a link to one. Throws Error (kUsage) for a shard in a subdirectory that
  // is a link to another place; kIo.
  SourceDeletion Of(const std::filesystem::path& shard) const;

 private:
  using FileId = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

  void FindLinks(const std::filesystem::path& directory);
  void AddLink(const std::filesystem::path& link);
  void RefuseDirectoryLink(const std::filesystem::path& link) const;

  std::filesystem::path directory_;  // real
  std::filesystem::path blobs_;      // real; empty where the directory is not a snapshot
  std::filesystem::path hub_;        // the hub cache, likewise
  // Links below the directory and, of a snapshot, in the hub cache, by the file that they lead to.
  std::multimap<FileId, std::filesystem::path> links_;
  // The same links by other links that they lead through, whose directories are real.
  std::multimap<std::filesystem::path, std::filesystem::path> passing_;
};

// The deletions of `shards`, without shards that are missing already. Throws as DeletionRules, and
// Error (kIo) where the system would not let this process delete one of the files.
std::vector<SourceDeletion> PlanDeletion(const std::filesystem::path& directory,
                                         std::span<const std::filesystem::path> shards);

}  // namespace dsv3::convert
