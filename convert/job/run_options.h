#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "convert/job/source_deletion.h"

namespace dsv3::convert {

class WorkSharing;  // job/work_sharing.h

enum class ChecksumMode { kSha256, kNone };

// How to run. No option here changes an output byte, except that checksum and tensor_sha256 change
// the manifest, and all_side_files changes which side files there are.
struct RunOptions {
  unsigned threads = 0;            // compute threads; 0: all processors
  std::uint64_t memory_bytes = 0;  // bound for tile buffers; 0: the default, 160 MiB
  ChecksumMode checksum = ChecksumMode::kSha256;
  bool tensor_sha256 = false;
  // --side-files all: also those that are left behind otherwise.
  bool all_side_files = false;
  // --link: a file that has every byte of a file of the source becomes a further name of that file
  // (a hard link), where the file system can.
  bool link = false;
  // --base: what a packed IN that holds differences was packed against; empty: none. Not of pack,
  // whose option says what it packs against.
  std::filesystem::path base = {};
  bool overwrite = false;
  bool dry_run = false;
  bool delete_source_shards = false;
  // With delete_source_shards, but not in a dry run: called once the source is open and before
  // anything is read of its weights, with what is to be deleted, and a sentence on what else goes
  // with it (empty: nothing). It throws where the user does not agree. Empty: the user has agreed.
  std::function<void(const std::vector<SourceDeletion>&, const std::string&)> confirm_deletion = {};
  // --part i/n: this run makes the i-th of n parts of the weight files and leaves the rest to other
  // runs. It does not check the whole output; --finish does.
  struct Part {
    std::uint64_t index = 0;
    std::uint64_t count = 1;
  };
  std::optional<Part> part;
  bool finish = false;  // --finish: all parts are there; completes the job
  // The processes that share the run; nullptr: this process works alone. Not owned.
  WorkSharing* sharing = nullptr;
  // Whether reading may find that the source is damaged. The runner fills it in.
  bool source_is_checked = false;
  // Whether the conversion could delete the source's files on the way. The runner fills it in.
  bool source_may_go = true;
  // For messages and the journal, as a shell takes them (formats/message_text.h): IN and an OUT
  // that is not the directory that is written, both of which the runner fills in, and the command
  // that makes the whole job, without OUT. Empty: not known, or OUT is the directory.
  std::string input = {};
  std::string output = {};
  std::string command = {};
};

// Whether a run may be the last of its job: a part leaves the end to another run.
inline bool MayEnd(const RunOptions& run) { return !run.part || run.finish; }

}  // namespace dsv3::convert
