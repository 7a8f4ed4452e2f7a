#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/plan/container.h"
#include "convert/verify/checksum.h"
#include "formats/io/file_system.h"
#include "formats/io/new_directories.h"
#include "formats/manifest.h"

// Where `checksum create` writes; an internal part of checksum.h.
namespace dsv3::convert {

// Whether the request names another directory, and checksums of an earlier run are there.
bool HasEarlierChecksums(const CreateChecksumsRequest& request,
                         const std::filesystem::path& directory);

// The directory to write to, `directory` or the request's output, which is there then (`made` until
// the files are in it) and in which both files can be made. Throws Error: kUsage for an output
// within the model or with a model of its own, and for one with another's SHA256SUMS; kIo.
std::filesystem::path PrepareChecksumOutput(const CreateChecksumsRequest& request,
                                            const std::filesystem::path& directory,
                                            formats::FileSystem& file_system,
                                            std::optional<formats::NewDirectories>& made);

// A weight file as it is now.
struct WeightFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string header_digest;  // empty where the header cannot be read
};

// Whether a manifest lists weight files, and not one of them is there with the header that it had;
// of manifests without digests of headers, with its size.
bool IsOfOtherWeights(const formats::Manifest& manifest, const std::vector<WeightFile>& files);

// Throws the Error (kUsage) about such a manifest in `output`.
[[noreturn]] void RefuseOtherWeights(const std::filesystem::path& output,
                                     const std::filesystem::path& directory);

// Writes the file durably, unless it has the content already.
void WriteWhereNew(formats::FileSystem& file_system, const std::filesystem::path& path,
                   const std::string& content);

}  // namespace dsv3::convert
