#include "convert/open/rank_shards.h"

#include <algorithm>
#include <string>
#include <system_error>

#include <fmt/format.h>

#include "convert/layouts/deepseek_names.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

bool IsRankDirectory(const fs::path& input) {
  return formats::EntryExists(input / formats::kRankLayoutName) &&
         !formats::EntryExists(input / formats::kShardIndexName);
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
      formats::EntryExists(input / formats::kShardIndexName)) {
    return false;
  }
  return DemoRanks(DemoFiles(input, freed)).has_value();
}

void RefuseDemoFile(const fs::path& input) {
  std::error_code ignored;
  if (!fs::is_regular_file(input, ignored)) return;
  const fs::path directory = fs::absolute(input).parent_path();
  const std::string file = input.filename().string();
  if (!IsDemoDirectory(directory) || !DemoRanks({file})) return;
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("{}: this is a file of DeepSeek's inference demo, a part of a model with "
                  "tensors under names of its own; give its directory, or make a checkpoint "
                  "of that with `dsv3-reshard merge --config FILE {} OUT`, where FILE is "
                  "the model's config.json as on Hugging Face",
                  formats::ShownPath(input), formats::ShownPath(directory)),
      {file, ""});
}

}  // namespace dsv3::convert
