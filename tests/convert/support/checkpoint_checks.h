#pragma once

#include <filesystem>
#include <string>

#include "convert/verify/compare.h"
#include "formats/finding.h"

// That what one command writes is read, checked and found right by the others. All of these add
// failures to the running test.
namespace dsv3::testing {

// The messages of findings, one a line.
std::string Messages(const formats::Findings& findings);

// Checks the names, shapes and values of a checkpoint: neither `structure` nor `numeric` has a
// finding, warnings included.
void ExpectWithoutFindings(const std::filesystem::path& directory);

// Writes the manifest and SHA256SUMS of a directory that has none.
void ExpectManifest(const std::filesystem::path& directory);

// Checks a conversion's output against its own manifest, file by file and tensor by tensor, and the
// manifest against one that `checksum create` makes of the same files in `copy`, a path where
// nothing is. Then `create` and `check` in the directory itself, which gets SHA256SUMS.
void ExpectSoundChecksums(const std::filesystem::path& directory,
                          const std::filesystem::path& copy);

// Checks that every tensor of a conversion's output is traced to `source`, which has a manifest.
void ExpectTraced(const std::filesystem::path& directory, const std::filesystem::path& source);

convert::CompareReport Compare(const std::filesystem::path& a, const std::filesystem::path& b,
                               double atol = 0, double rtol = 0);
// Checks that all values are equal.
void ExpectEqualValues(const std::filesystem::path& a, const std::filesystem::path& b);

// Checks that two directories hold the same files, but for the manifests and SHA256SUMS.
void ExpectSameFiles(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace dsv3::testing
