#include "cli/base_option.h"

#include <fmt/format.h>

namespace dsv3::cli {

Option BaseOption(std::filesystem::path* base, std::string_view packed) {
  return PathOption(
      "base", "DIR", PathUse::kCheckpoint, base,
      fmt::format("What {} was packed against (dsv3-convert pack --base), in any form and any "
                  "shards. Needed for a packed checkpoint that holds differences, and refused "
                  "where nothing needs it.",
                  packed));
}

}  // namespace dsv3::cli
