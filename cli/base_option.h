#pragma once

#include <filesystem>
#include <string_view>

#include "cli/option_table.h"

namespace dsv3::cli {

// --base of the commands that read packed checkpoints; `packed` is what help calls these: "IN".
Option BaseOption(std::filesystem::path* base, std::string_view packed);

}  // namespace dsv3::cli
