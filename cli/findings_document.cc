#include "cli/findings_document.h"

#include <algorithm>
#include <ctime>
#include <system_error>

#include "formats/io/existence.h"

namespace dsv3::cli {
namespace {

bool IsBelow(const std::filesystem::path& path, const std::filesystem::path& above) {
  const auto mismatch = std::mismatch(above.begin(), above.end(), path.begin(), path.end());
  return mismatch.first == above.end();
}

}  // namespace

std::string UtcText(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[sizeof "2026-11-29T04:59:48"];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts)};
}

std::filesystem::path SourceRoot(const std::filesystem::path& directory) {
  std::filesystem::path place = directory.lexically_normal();
  if (!place.has_filename()) place = place.parent_path();
  for (std::filesystem::path root = place; !root.empty(); root = root.parent_path()) {
    if (formats::Exists(root / ".git")) return root;
    if (root == root.parent_path()) break;
  }
  std::error_code error;
  const std::filesystem::path here = std::filesystem::current_path(error);
  return !error && here.has_relative_path() && IsBelow(place, here) ? here : place;
}

}  // namespace dsv3::cli
