#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "formats/error.h"

// Digests of many files in one pass over each: creating, checking and signing checksums share it.
namespace dsv3::convert {

// Bytes [begin, end) of a file whose XXH3-128 is wanted.
struct DigestRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct FileToDigest {
  std::string name;  // relative to the directory; for messages and progress
  std::filesystem::path path;
  bool sha256 = true;
  bool git_blob_sha1 = false;  // see formats::GitBlobSha1
  // Ascending and disjoint, within the file. Without sha256 and git_blob_sha1 nothing else is read.
  std::vector<DigestRange> ranges;
};

// Lowercase hex digests; a digest that was not asked for is empty.
struct FileDigest {
  std::uint64_t bytes = 0;  // when the file was opened
  std::string sha256;
  std::string git_blob_sha1;
  std::vector<std::string> ranges;  // XXH3-128, one for each FileToDigest::ranges
  // Why the file could not be read to its end; the digests are empty then.
  std::optional<Error> error;
};

// Reads each file once and returns its digests, in the order of `files`. Up to four files advance
// side by side on each of `threads` compute threads (0: all processors), so several files are
// hashed faster than the same bytes in one; a few more threads read ahead. Memory is bounded by 64
// MiB and a little for each file, whatever the files' sizes. Calls progress.OnBytes with the bytes
// that were read; the caller begins the phase. Throws Error: kInterrupted when `stop` is requested.
std::vector<FileDigest> DigestFiles(const std::vector<FileToDigest>& files, unsigned threads,
                                    ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
