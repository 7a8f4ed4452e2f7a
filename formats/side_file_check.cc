#include "formats/side_file_check.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kJson = ".json";
// An HTML page or an image may have any other name.
constexpr std::array<std::string_view, 6> kTexts = {kJson,    ".model", ".tiktoken",
                                                    ".jinja", ".py",    ".txt"};
constexpr std::uint64_t kWindowBytes = 512;
constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kDownload = "download it again";

bool IsText(std::string_view name) {
  return std::any_of(kTexts.begin(), kTexts.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

std::string ReadRange(const InputFile& file, std::uint64_t begin, std::uint64_t bytes) {
  std::string text(bytes, '\0');
  file.ReadAt(begin, std::as_writable_bytes(std::span(text)));
  return text;
}

// What the first and the last bytes of a JSON text show; objects and arrays only are judged.
std::string JsonProblem(std::string_view start, std::string_view end) {
  if (start.starts_with("\xEF\xBB\xBF")) start.remove_prefix(3);
  const std::size_t first = start.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return "";
  if (start[first] == '\0') {
    return fmt::format("it begins with zeros, which a download left that did not end; {}",
                       kDownload);
  }
  const char closing = start[first] == '{' ? '}' : start[first] == '[' ? ']' : '\0';
  if (closing == '\0') return "";
  const std::size_t last = end.find_last_not_of(kSpace);
  if (last == std::string_view::npos || end[last] == closing) return "";
  return fmt::format("it begins with {} and does not end with {}, so it is cut off; {}",
                     start[first], closing, kDownload);
}

// Empty where nothing is wrong.
std::string ProblemOf(const fs::path& path, const std::string& name) {
  const InputFile file(path, name);
  if (!IsText(name)) return "";
  const std::uint64_t window = std::min(file.bytes(), kWindowBytes);
  const std::string start = ReadRange(file, 0, window);
  if (const std::string_view failed = DescribeFailedDownload(start); !failed.empty()) {
    return std::string(failed);
  }
  if (!name.ends_with(kJson)) return "";
  if (file.bytes() == 0) {
    return fmt::format("the file is empty, which is not valid JSON; {}", kDownload);
  }
  return JsonProblem(start, ReadRange(file, file.bytes() - window, window));
}

}  // namespace

std::optional<Finding> FindBrokenSideFile(const fs::path& path, const std::string& name) {
  if (name == kConfigName) return std::nullopt;
  std::string message;
  std::string kind = "broken-side-file";
  try {
    if (const std::string problem = ProblemOf(path, name); !problem.empty()) {
      message = fmt::format("{}: {}", ShownPath(name), problem);
    }
  } catch (const Error& error) {
    // That it is missing what needs it says; for want of a permission nobody can read it.
    if (error.code() != ErrorCode::kIo) return std::nullopt;
    kind = kUnreadableSideFile;
    message = error.message();
  }
  if (message.empty()) return std::nullopt;
  return Finding{.severity = Severity::kWarning,
                 .kind = std::move(kind),
                 .file = name,
                 .tensor = {},
                 .message = std::move(message),
                 .unreadable = false};
}

}  // namespace dsv3::formats
