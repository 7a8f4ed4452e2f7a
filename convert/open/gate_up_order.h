#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/layouts/stacks.h"

// Of the stacks whose names and shapes are the same, which one a checkpoint is of: MindFormers'
// networks keep the rows of gate and up in turns, or one behind the other.
namespace dsv3::convert {

// MindFormers' name of the switch, in its YAML files and in a config.json.
inline constexpr char kGateUpSwitch[] = "use_interleaved_weight_layout_mlp";

struct GateUpOrder {
  std::optional<Stack> stack;     // what the files say; nothing where none does, or two differ
  std::vector<std::string> said;  // the files that have the switch
};

// Looks for the switch in `config_text` and in the *.yaml and *.yml files of the directory and of
// the one around it. A file that is not readable text says nothing.
GateUpOrder FindGateUpOrder(const std::filesystem::path& directory, const std::string& config_text);

}  // namespace dsv3::convert
