#include "cli/output_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "convert/forward/trace_output.h"
#include "formats/error.h"
#include "formats/io/durable_file.h"
#include "formats/message_text.h"

namespace dsv3::cli {
namespace {

namespace fs = std::filesystem;

// Empty where it cannot be read.
std::string BeginningOf(const fs::path& file) {
  constexpr std::size_t kBytes = 4096;
  std::ifstream stream(file, std::ios::binary);
  std::string text(kBytes, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return text;
}

const char* NameOf(OutputContent content) {
  switch (content) {
    case OutputContent::kJUnit:
      return "a JUnit report";
    case OutputContent::kSarif:
      return "a SARIF report";
    case OutputContent::kSvg:
      return "an SVG picture";
    case OutputContent::kNumpy:
      return "an array in NumPy's format";
    case OutputContent::kTrace:
      return "written by --trace";
  }
  return "";
}

// Whether it is JSON, or no text: so begin the files of a model, and other work that a slip of the
// hand must not cost.
bool IsDataFile(std::string_view beginning) {
  const std::size_t first = beginning.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return false;
  const bool is_binary = std::any_of(beginning.begin(), beginning.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < ' ' && c != '\t' && c != '\r' && c != '\n' && c != '\f' && byte != 0x1B;
  });
  return is_binary || beginning[first] == '{' || beginning[first] == '[';
}

bool Holds(std::string_view beginning, OutputContent content) {
  const auto has = [&](std::string_view text) {
    return beginning.find(text) != std::string_view::npos;
  };
  switch (content) {
    case OutputContent::kJUnit:
      return beginning.starts_with('<') && has("<testsuite");
    case OutputContent::kSarif:
      return beginning.starts_with('{') && has("sarif");
    case OutputContent::kSvg:
      return beginning.starts_with('<') && has("<svg");
    case OutputContent::kNumpy:
      return beginning.starts_with("\x93NUMPY");
    case OutputContent::kTrace:
      return has(convert::kTraceMaker);
  }
  return false;
}

void RequireReplaceable(const std::string& file, OutputContent content) {
  const std::string beginning = BeginningOf(file);
  if (!IsDataFile(beginning) || Holds(beginning, content)) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: a file of this name is there that is not {}, so it is not replaced; "
                          "remove it, or give another FILE",
                          formats::ShownPath(file), NameOf(content)),
              {.file = file, .tensor = {}});
}

bool IsSameFile(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path path_a = fs::weakly_canonical(fs::absolute(a, error), error);
  const fs::path path_b = fs::weakly_canonical(fs::absolute(b, error), error);
  return !path_a.empty() && path_a == path_b;
}

}  // namespace

void CheckOutputFile(const char* option, const std::string& file, OutputContent content) {
  if (file.empty()) return;
  try {
    RequireReplaceable(file, content);
    formats::RequireWritable(formats::PosixFileSystem(), formats::FollowLinks(file));
  } catch (const Error& problem) {
    throw Error(problem.code(), fmt::format("--{}: {}", option, problem.message()),
                problem.place());
  }
}

void WriteOutputFile(const std::string& file, std::string_view content) {
  formats::WriteFileDurably(formats::PosixFileSystem(), formats::FollowLinks(file), content);
}

void RequireDistinctFiles(std::initializer_list<NamedFile> files) {
  for (const NamedFile* b = files.begin(); b != files.end(); ++b) {
    for (const NamedFile* a = files.begin(); a != b; ++a) {
      if (a->file.empty() || b->file.empty() || !IsSameFile(a->file, b->file)) continue;
      throw Error(ErrorCode::kUsage,
                  fmt::format("--{} and --{} name the same file, {}; give each a file of its own",
                              a->option, b->option, formats::ShownPath(b->file)),
                  {.file = b->file.string(), .tensor = {}});
    }
  }
}

}  // namespace dsv3::cli
