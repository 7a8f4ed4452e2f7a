#include "convert/job/deletion_permission.h"

#include <string>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/removal.h"
#include "formats/message_text.h"

namespace dsv3::convert {

void RequireDeletable(const std::filesystem::path& path) {
  const std::string obstacle = formats::ObstacleToRemoval(path);
  if (obstacle.empty()) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: --delete-source-shards cannot delete it: {}; get the permission, or "
                          "leave the option out. Nothing was written",
                          formats::ShownPath(path), obstacle),
              {path.string(), ""});
}

}  // namespace dsv3::convert
