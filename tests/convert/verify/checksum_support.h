#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/verify/checksum.h"
#include "formats/manifest.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What tests of checksums share.
namespace dsv3::testing {

inline convert::CreateChecksumsReport Create(const std::filesystem::path& directory,
                                             bool overwrite) {
  convert::CreateChecksumsRequest request;
  request.directory = directory;
  request.overwrite = overwrite;
  request.threads = 1;
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::CreateChecksums(request, file_system, progress, stop);
}

inline convert::CheckChecksumsReport Check(const std::filesystem::path& directory,
                                           bool quick = false,
                                           const std::filesystem::path& manifest = {}) {
  convert::CheckChecksumsRequest request;
  request.directory = directory;
  request.manifest = manifest;
  request.quick = quick;
  request.threads = 1;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::CheckChecksums(request, progress, stop);
}

// The kinds of all findings, in their order.
inline std::vector<std::string> Kinds(const convert::Verification& verification) {
  std::vector<std::string> kinds;
  for (const formats::Finding& finding : verification.findings) kinds.push_back(finding.kind);
  return kinds;
}

// A small model directory, "model".
class ChecksumTest : public ::testing::Test {
 protected:
  ChecksumTest() { SmallFp8Checkpoint().Write(model_); }

  convert::CreateChecksumsReport Create(bool overwrite = false) {
    return testing::Create(model_, overwrite);
  }
  convert::CheckChecksumsReport Check(bool quick = false,
                                      const std::filesystem::path& manifest = {}) {
    return testing::Check(model_, quick, manifest);
  }
  std::vector<std::string> Kinds(bool quick = false) {
    return testing::Kinds(Check(quick).verification);
  }
  // Replaces one byte of a file by its complement.
  void Spoil(const std::string& name, std::size_t offset) {
    std::string content = ReadFile(model_ / name);
    content.at(offset) = static_cast<char>(~content.at(offset));
    WriteFile(model_ / name, content);
  }
  formats::Manifest Manifest() {
    return formats::ParseManifest(ReadFile(model_ / formats::kManifestName), "manifest");
  }

  TempDir dir_{MemoryDirectory()};
  std::filesystem::path model_ = dir_ / "model";
};

}  // namespace dsv3::testing
