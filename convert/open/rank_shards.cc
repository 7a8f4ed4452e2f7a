#include "convert/open/rank_shards.h"

#include <algorithm>
#include <string>
#include <system_error>

#include <fmt/format.h>

#include "convert/layouts/deepseek_names.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

bool IsRankDirectory(const fs::path& input) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(input / formats::kRankLayoutName, ignored)) &&
         !fs::exists(fs::symlink_status(input / formats::kShardIndexName, ignored));
}

std::vector<std::string> DemoFiles(const fs::path& directory,
                                   const std::vector<formats::FreedShard>& freed) {
  std::vector<std::string> names = formats::ListSafetensors(directory);
  for (const formats::FreedShard& file : freed) names.push_back(file.name);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool IsDemoDirectory(const fs::path& input, const std::vector<formats::FreedShard>& freed) {
  std::error_code ignored;
  if (!fs::is_directory(input, ignored) || IsRankDirectory(input) ||
      fs::exists(fs::symlink_status(input / formats::kShardIndexName, ignored))) {
    return false;
  }
  return DemoRanks(DemoFiles(input, freed)).has_value();
}

void RefuseDemo(const fs::path& input) {
  std::error_code ignored;
  const bool is_file = fs::is_regular_file(input, ignored);
  const fs::path directory = is_file ? fs::absolute(input).parent_path() : input;
  if (!IsDemoDirectory(directory)) return;
  const std::vector<std::string> files = formats::ListSafetensors(directory);
  const std::string file = is_file ? input.filename().string() : files.front();
  if (std::find(files.begin(), files.end(), file) == files.end()) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: {}, with tensors under names of its own; make a checkpoint of {} with "
                  "`dsv3-reshard merge --config FILE{}`, where FILE is the model's config.json as "
                  "on Hugging Face, and give that",
                  formats::ShownPath(input),
                  is_file ? "this is a file of DeepSeek's inference demo"
                          : fmt::format("this directory holds the files of DeepSeek's inference "
                                        "demo ({})",
                                        file),
                  is_file ? "its directory" : "them",
                  is_file ? " " + formats::ShownPath(directory) + " OUT" : ""),
      {file, ""});
}

}  // namespace dsv3::convert
