#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <vector>

#include "convert/job/commit.h"
#include "convert/job/source_deletion.h"
#include "convert/job/source_use.h"
#include "convert/plan/plan.h"
#include "convert/stream/source_files.h"
#include "formats/freed_shard.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Frees source shards while a conversion runs, those of the checkpoint that is converted alone:
// once every output file that needs a shard is committed, and has been read back with the right
// digest, the shard is deleted as far as DeletionRules allow. Before, the bytes of it that opening
// the checkpoint reads (SourceFile::described_by) are saved in the output directory
// (.dsv3-freed-N), so that a run which continues can still make the same plan.
// Thread-safe.
class SourceRelease {
 public:
  // `source` is the directory that the shards are in.
  SourceRelease(formats::FileSystem& fs, std::filesystem::path directory,
                std::filesystem::path source, const Plan& plan, const SourceUse& use,
                SourceFiles& sources, const StopToken& stop);

  // The output file is in place and `record` has its digest; reads the file back. Throws Error
  // (kVerification) when it differs; then no shard that the file needs is deleted.
  void Committed(std::size_t file, const FileRecord& record);
  // The output file is in place and has been checked already.
  void Checked(std::size_t file);

  // The shards that were looked at; not to be called while the conversion runs.
  const std::vector<SourceDeletion>& deletions() const { return deletions_; }

 private:
  void Free(std::uint32_t source);
  void Save(std::uint32_t source);

  formats::FileSystem& fs_;
  std::filesystem::path directory_;
  std::filesystem::path source_;
  const Plan& plan_;
  const SourceUse& use_;
  SourceFiles& sources_;
  const StopToken& stop_;
  std::mutex mutex_;  // guards what follows
  std::vector<std::uint32_t> needs_;
  std::vector<SourceDeletion> deletions_;
};

// The shards of which an unfinished run saved bytes in `directory`.
std::vector<formats::FreedShard> ReadFreedShards(const std::filesystem::path& directory);
// Removes what was saved, once no run needs them any more.
void RemoveFreedShards(const std::filesystem::path& directory, formats::FileSystem& fs);

}  // namespace dsv3::convert
