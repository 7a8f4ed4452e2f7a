#include "convert/open/broken_files.h"

#include <string_view>
#include <utility>
#include <vector>

#include "convert/model/config_object.h"
#include "convert/open/file_fault.h"
#include "convert/plan/container.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/left_behind.h"
#include "formats/side_file_check.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Finding;
using formats::Findings;

void AddConfig(const fs::path& directory, Findings& findings) {
  if (!formats::Exists(directory / formats::kConfigName)) return;
  try {
    RequireConfigObject(
        formats::ReadSmallFile(directory / formats::kConfigName, formats::kMaxConfigBytes),
        formats::kConfigName);
  } catch (const Error& problem) {
    if (problem.code() == ErrorCode::kIo) throw;
    findings.push_back(FileFault("unreadable-config", formats::kConfigName, problem.message()));
  }
}

}  // namespace

std::optional<Finding> FindUnreadableHeader(const fs::path& path, const std::string& name) {
  const Container* const container = ContainerOf(name);
  if (container == nullptr) return std::nullopt;
  try {
    container->ReadHeader(path, name);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return FileFault("unreadable-shard", name, error.message());
  }
  return std::nullopt;
}

void AddBrokenSideFiles(const fs::path& directory, const std::vector<std::string>& names,
                        formats::Severity severity, Findings& findings) {
  for (const std::string& name : names) {
    auto broken = formats::FindBrokenSideFile(directory / name, name);
    if (!broken) continue;
    broken->severity = severity;
    findings.push_back(*std::move(broken));
  }
}

Findings FindBrokenFiles(const fs::path& directory) {
  Findings findings;
  AddConfig(directory, findings);
  const formats::CheckpointListing listing = formats::ListCheckpoint(directory, true);
  std::vector<std::string> side_files;
  for (const std::string& name : listing.side_files) {
    if (listing.safetensors.empty() && name.find('/') == std::string::npos) {
      if (auto unreadable = FindUnreadableHeader(directory / name, name)) {
        findings.push_back(*std::move(unreadable));
      }
    }
    if (!formats::KindOfLeftBehind(name)) side_files.push_back(name);
  }
  AddBrokenSideFiles(directory, side_files, formats::Severity::kError, findings);
  // Those who read the whole file end with that error.
  std::erase_if(findings, [](const Finding& finding) {
    return finding.kind == formats::kUnreadableSideFile;
  });
  return findings;
}

bool SaysBroken(const Finding& finding) {
  return finding.kind == "unreadable-shard" || finding.kind == "unreadable-config" ||
         finding.kind == "broken-side-file";
}

}  // namespace dsv3::convert
