#include "convert/recipes/side_files.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <system_error>
#include <utility>

namespace dsv3::convert {

using formats::LeftBehind;
using formats::LeftBehindKind;

bool DescribesQuantization(std::string_view name) {
  constexpr std::array<std::string_view, 6> kNames = {
      "hf_quant_config.json", "quant_cfg.json",           "quantize_config.json",
      "quant_config.json",    "quantization_config.json", "recipe.yaml"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         (name.starts_with("quant_model_description") && name.ends_with(".json"));
}

void PlanSideFiles(const OpenedModel& source, const std::string& config,
                   const SideFileChoice& choice, Plan& plan) {
  std::vector<LeftBehind> left_behind = source.left_behind;
  for (const std::string& name : source.side_files) {
    if (name == formats::kConfigName) {
      plan.side_files.push_back({name, {}, config});
    } else if (choice.changes_quantization && DescribesQuantization(name)) {
      std::error_code error;
      const std::uintmax_t bytes = std::filesystem::file_size(source.directory / name, error);
      left_behind.push_back({name, LeftBehindKind::kUntrueDescription, error ? 0 : bytes});
    } else {
      plan.side_files.push_back({name, source.directory / name, {}});
    }
  }
  if (choice.all) {
    plan.options.push_back(TextOption("side_files", "all"));
    for (const LeftBehind& each : left_behind) {
      plan.side_files.push_back({each.name, source.directory / each.name, {}});
    }
    left_behind.clear();
  }
  std::sort(plan.side_files.begin(), plan.side_files.end(),
            [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
  std::sort(left_behind.begin(), left_behind.end(),
            [](const LeftBehind& a, const LeftBehind& b) { return a.name < b.name; });
  plan.left_behind = std::move(left_behind);
}

void PutSideFile(PlannedSideFile file, Plan& plan) {
  std::erase_if(plan.side_files,
                [&](const PlannedSideFile& other) { return other.name == file.name; });
  std::erase_if(plan.left_behind, [&](const LeftBehind& other) { return other.name == file.name; });
  plan.side_files.push_back(std::move(file));
  std::sort(plan.side_files.begin(), plan.side_files.end(),
            [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
}

}  // namespace dsv3::convert
