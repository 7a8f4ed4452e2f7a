#include "convert/open/rank_shards.h"

#include <system_error>

#include "formats/shard_index.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

bool IsRankDirectory(const fs::path& input) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(input / formats::kRankLayoutName, ignored)) &&
         !fs::exists(fs::symlink_status(input / formats::kShardIndexName, ignored));
}

}  // namespace dsv3::convert
