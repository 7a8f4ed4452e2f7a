#include "cli/output_file.h"

#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/durable_file.h"
#include "formats/message_text.h"

namespace dsv3::cli {

void CheckOutputFile(const char* option, const std::string& file) {
  if (file.empty()) return;
  const std::filesystem::path parent = std::filesystem::path(file).parent_path();
  std::error_code error;
  if (parent.empty() || std::filesystem::is_directory(parent, error)) {
    try {
      formats::RequireWritable(formats::PosixFileSystem(), file);
      return;
    } catch (const Error& problem) {
      throw Error(problem.code(), fmt::format("--{}: {}", option, problem.message()),
                  problem.place());
    }
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("--{}: there is no directory {}; make it, or give another FILE", option,
                          formats::ShownPath(parent)),
              {.file = file, .tensor = {}});
}

}  // namespace dsv3::cli
