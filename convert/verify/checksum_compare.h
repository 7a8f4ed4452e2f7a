#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/stream/file_digests.h"
#include "convert/verify/checksum_basis.h"
#include "convert/verify/directory_files.h"
#include "formats/finding.h"

// Compares a directory's files with what they are expected to be; an internal part of checksum.h.
namespace dsv3::convert {

// What reading the files gave, by relative name; a file that is missing here was not read. `ranges`
// of a file's digest belong to ExpectedFile::Layout where that was asked for.
using DigestsByName = std::map<std::string, FileDigest>;

struct ChecksumComparison {
  formats::Findings findings;    // by file, then in the order of the data
  std::uint64_t bytes_read = 0;  // again, to find the tensors that differ
};

// The files to digest for a comparison: all expected ones that are there, with the digests that the
// basis knows; tensor by tensor where it knows no digest of the whole file.
std::vector<FileToDigest> FilesToCompare(const ChecksumBasis& basis,
                                         const std::filesystem::path& directory);

// Compares everything; reads the tensors of files that differ. `listing` as ListDirectory gives it.
ChecksumComparison CompareDigests(const ChecksumBasis& basis,
                                  const std::filesystem::path& directory,
                                  const std::vector<DirectoryFile>& listing,
                                  const DigestsByName& digests, unsigned threads,
                                  ProgressSink& progress, const StopToken& stop);

// Compares names, sizes and headers alone.
ChecksumComparison CompareQuickly(const ChecksumBasis& basis,
                                  const std::filesystem::path& directory,
                                  const std::vector<DirectoryFile>& listing);

}  // namespace dsv3::convert
