#include "convert/open/broken_files.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "convert/model/config_object.h"
#include "convert/plan/container.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/left_behind.h"
#include "formats/side_file_check.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Finding;
using formats::Findings;

Finding Fault(std::string_view kind, const std::string& file, std::string message) {
  Finding finding;
  finding.kind = kind;
  finding.file = file;
  finding.message = std::move(message);
  return finding;
}

void AddConfig(const fs::path& directory, Findings& findings) {
  std::error_code error;
  if (!fs::exists(directory / formats::kConfigName, error)) return;
  try {
    RequireConfigObject(
        formats::ReadSmallFile(directory / formats::kConfigName, formats::kMaxConfigBytes),
        formats::kConfigName);
  } catch (const Error& problem) {
    if (problem.code() == ErrorCode::kIo) throw;
    findings.push_back(Fault("unreadable-config", formats::kConfigName, problem.message()));
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
    return Fault("unreadable-shard", name, error.message());
  }
  return std::nullopt;
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
  for (Finding& broken : formats::FindBrokenSideFiles(directory, side_files)) {
    broken.severity = formats::Severity::kError;
    findings.push_back(std::move(broken));
  }
  return findings;
}

}  // namespace dsv3::convert
