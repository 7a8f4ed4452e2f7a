#pragma once

#include <string>
#include <string_view>

#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// The small files that a conversion copies beside the weights.
namespace dsv3::convert {

// Which of the source's side files a conversion copies.
struct SideFileChoice {
  bool all = false;  // --side-files all
  // Whether the weights' numbers change their form, so that files which describe how they are
  // quantised (hf_quant_config.json and others) are no longer true.
  bool changes_quantization = false;
};

// Fills plan.side_files with the source's side files, `config` in place of its config.json, and
// plan.left_behind with those that are not copied.
void PlanSideFiles(const OpenedModel& source, const std::string& config,
                   const SideFileChoice& choice, Plan& plan);

// Adds a side file, over the one of the same name.
void PutSideFile(PlannedSideFile file, Plan& plan);

// Whether a file says which tensors are quantised and how: those of ModelOpt, AutoGPTQ, AutoAWQ,
// msmodelslim and llm-compressor.
bool DescribesQuantization(std::string_view name);

}  // namespace dsv3::convert
