#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "convert/verify/checksum.h"
#include "tests/convert/support/quick_file_system.h"

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

}  // namespace dsv3::testing
