#include "convert/recipes/merge.h"

#include <utility>

#include <fmt/format.h>

#include "convert/open/model_files.h"
#include "convert/recipes/own_shards.h"
#include "convert/recipes/side_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// "3 tensors (first 'a')".
std::string Counted(const std::vector<std::string>& names, std::string_view what) {
  return fmt::format("{} {}{} (first {})", names.size(), what, names.size() == 1 ? "" : "s",
                     QuoteForMessage(names.front()));
}

}  // namespace

Plan PlanMerge(const OpenedModel& model, bool all_side_files) {
  Plan plan;
  plan.recipe = kMerge;
  ModelFiles files = ReadModelFiles(model);
  plan.files = PlanOwnShards(model, std::move(files.headers));
  plan.index = files.index.value_or("");
  plan.source_digests = model.assembled->digests;
  PlanSideFiles(model, model.config_text,
                {.all = all_side_files,
                 .changes_quantization = model.ranks && !model.ranks->layout.bf16_modules.empty()},
                plan);
  return plan;
}

std::vector<std::string> DifferencesFromOriginal(const OpenedModel& model) {
  std::vector<std::string> differences;
  if (model.ranks->is_original) return differences;
  const formats::RankLayout& layout = model.ranks->layout;
  if (!layout.dropped.empty()) {
    differences.push_back(
        fmt::format("{} of the original {} not there, for the rank shards do not "
                    "hold {}.",
                    Counted(layout.dropped, "tensor"), layout.dropped.size() == 1 ? "is" : "are",
                    layout.dropped.size() == 1 ? "it" : "them"));
  }
  if (!layout.bf16_modules.empty()) {
    differences.push_back(fmt::format(
        "{} {} BF16, as in the rank shards; the FP8 codes of the original cannot come back.",
        Counted(layout.bf16_modules, "module"), layout.bf16_modules.size() == 1 ? "is" : "are"));
  }
  differences.emplace_back(
      "The shards keep their names, but headers, index and config.json are written anew for the "
      "tensors that are held.");
  return differences;
}

}  // namespace dsv3::convert
