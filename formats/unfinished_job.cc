#include "formats/unfinished_job.h"

#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial";
constexpr std::string_view kFilesDirectory = ".gguf.partial";

// As the user gave the directory, where it was given.
std::string ShownOutput(const fs::path& directory) {
  const fs::path output = OutputOfJob(directory);
  std::string shown = ShownPath(directory);
  if (output == directory || !shown.ends_with(kPartial)) return ShownPath(output);
  shown.resize(shown.size() - kPartial.size());
  return shown;
}

}  // namespace

fs::path OutputOfJob(const fs::path& directory) {
  if (!directory.has_filename()) return OutputOfJob(directory.parent_path());  // "DIR/"
  std::string name = directory.filename().string();
  if (!name.ends_with(kFilesDirectory)) return directory;
  name.resize(name.size() - kPartial.size());
  return directory.parent_path() / name;
}

fs::path UnfinishedJobOf(const fs::path& file) {
  fs::path directory = file.string() + std::string(kPartial);
  std::error_code error;
  if (OutputOfJob(directory) == directory || !fs::is_directory(directory, error)) return {};
  return ReadJobProgress(directory) ? directory : fs::path();
}

std::string DescribeUnfinishedJob(const JobProgress& job, const fs::path& directory) {
  const fs::path output = OutputOfJob(directory);
  const std::string command =
      fmt::format("{} {}", job.command.empty() ? CommandOfRecipe(job.recipe) + " IN" : job.command,
                  ShownAbsolutePath(output));
  return fmt::format(
      "a conversion ({}) into {} is under way or was interrupted; {} of {} files are complete: "
      "wait for it, or continue it with: {}",
      job.recipe, ShownOutput(directory), job.completed, job.files,
      job.parts == 0
          ? command
          : fmt::format("`{} --part I/{}` for each part I that is missing, then `{} --finish`",
                        command, job.parts, command));
}

std::string CommandOfRecipe(const std::string& recipe) {
  if (recipe == "reshard") return "dsv3-reshard";
  if (recipe == "merge") return "dsv3-reshard merge";
  return "dsv3-convert " + recipe;
}

}  // namespace dsv3::formats
