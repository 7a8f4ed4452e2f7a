#include "convert/open/rank_shards.h"

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

bool IsDemoDirectory(const fs::path& input) {
  std::error_code ignored;
  if (!fs::is_directory(input, ignored) || IsRankDirectory(input) ||
      fs::exists(fs::symlink_status(input / formats::kShardIndexName, ignored))) {
    return false;
  }
  return DemoRanks(formats::ListSafetensors(input)).has_value();
}

void RefuseDemoDirectory(const fs::path& input) {
  if (!IsDemoDirectory(input)) return;
  const std::string file = formats::ListSafetensors(input).front();
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: this directory holds the files of DeepSeek's inference demo ({}), "
                          "with tensors under names of its own; make a checkpoint of them with "
                          "`dsv3-reshard merge --config FILE`, where FILE is the model's "
                          "config.json as on Hugging Face, and give that",
                          formats::ShownPath(input), file),
              {file, ""});
}

}  // namespace dsv3::convert
