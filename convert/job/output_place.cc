#include "convert/job/output_place.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

bool IsInside(const fs::path& path, const fs::path& directory) {
  const auto [end, unused] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

constexpr std::string_view kOwnDirectory = "name a directory of its own for the output";

[[noreturn]] void RefuseOutput(const fs::path& output, std::string_view problem,
                               std::string_view advice = kOwnDirectory) {
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {}; {}", formats::ShownPath(output), problem, advice),
              {output.string(), ""});
}

// Above the output everything that exists is a directory.
void RequireDirectories(const fs::path& output, std::string_view advice) {
  std::error_code ignored;
  for (fs::path parent = CanonicalPath(output).parent_path(); parent.has_relative_path();
       parent = parent.parent_path()) {
    if (!formats::Exists(parent)) continue;
    if (fs::is_directory(parent, ignored)) break;
    RefuseOutput(output, fmt::format("{} is not a directory", formats::ShownPath(parent)), advice);
  }
}

// Both paths are canonical.
void RequireNotAround(const fs::path& in, const fs::path& out, const fs::path& output) {
  if (in == out) RefuseOutput(output, "the output directory is the input directory");
  if (IsInside(in, out)) {
    RefuseOutput(output, fmt::format("the input directory {} lies inside the output directory",
                                     formats::ShownPath(in)));
  }
}

}  // namespace

fs::path CanonicalPath(const fs::path& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);
  const fs::path canonical = error ? fs::path() : fs::weakly_canonical(absolute, error);
  if (error == std::errc::permission_denied) throw IoError("find", path.string(), error.value());
  if (error) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: {}; name another directory", formats::ShownPath(path), error.message()),
        {path.string(), ""});
  }
  // "dir/" and "dir" are one place.
  return canonical.has_filename() ? canonical : canonical.parent_path();
}

void RequireApart(const fs::path& input_directory, const fs::path& output) {
  const fs::path in = CanonicalPath(input_directory);
  const fs::path out = CanonicalPath(output);
  RequireNotAround(in, out, output);
  if (IsInside(out, in)) {
    RefuseOutput(output, fmt::format("the output directory lies inside the input directory {}",
                                     formats::ShownPath(in)));
  }
}

void RequirePlaces(const fs::path& input, const fs::path& output) {
  std::error_code ignored;
  if (fs::is_directory(input, ignored)) {
    RequireApart(input, output);
  } else if (formats::Exists(input)) {
    // Where one file was named, the output may lie beside it.
    RequireNotAround(CanonicalPath(input).parent_path(), CanonicalPath(output), output);
  }
  RequireDirectories(output, kOwnDirectory);
}

void RequireFilePlace(const fs::path& input, const fs::path& output) {
  std::error_code ignored;
  const fs::path in = CanonicalPath(input);
  if (fs::is_directory(input, ignored) && IsInside(CanonicalPath(output), in)) {
    RefuseOutput(output,
                 fmt::format("it would lie in the input directory {}", formats::ShownPath(in)),
                 "name a file in another directory");
  }
  RequireDirectories(output, "name a file in another directory");
}

}  // namespace dsv3::convert
