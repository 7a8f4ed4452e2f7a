#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/runner.h"
#include "convert/model/model_config.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/plan/repack_expression.h"

// Weights of FP4 codes in another form, where that loses no bit: MXFP4 → FP8 or NVFP4, and NVFP4 in
// the form of another tool.
namespace dsv3::convert {

// The forms that repack writes.
enum class RepackTarget { kFp8, kNvFp4ModelOpt, kNvFp4CompressedTensors };

struct RepackOptions {
  std::optional<RepackTarget> to = {};  // needed
};

// The word of --to, an alias resolved: "nvfp4-modelopt".
std::string_view RepackTargetName(RepackTarget target);

// A weight that is written in another form.
struct RepackedWeight {
  ScaledWeight weight;
  std::string module;                          // its name without the last component
  std::uint32_t input_scale = Catalog::kNone;  // the scale of its activations
  // Other repacked weights, by position in RepackedModel::weights, that share the tensor scale: up
  // of gate, and the other way round. Of MXFP4 that becomes NVFP4.
  std::vector<std::size_t> partners;
  std::shared_ptr<FoundScales> found;  // filled by RepackCheck

  bool IsMxFp4() const { return weight.scale_format == quant::ScaleFormat::kE8M0; }
};

struct RepackedModel {
  RepackTarget target = RepackTarget::kFp8;
  std::vector<RepackedWeight> weights;  // ordered by their positions
  std::vector<std::string> nvfp4;       // modules that are NVFP4 in the output, sorted
  quant::BlockShape block;              // of kFp8
  // Whether the weights have scales of activations in the output; they do with kNvFp4ModelOpt.
  bool activations = false;
  bool fp8_beside = false;  // whether config.json describes FP8 weights beside those that change
};

// What is repacked. Throws Error (kBadInput): the first fault of weights and scales; a weight in a
// form that cannot become the target without loss, or that the target's config cannot describe
// beside the others; and where nothing is to be repacked.
RepackedModel FindRepacked(const OpenedModel& model, RepackTarget target);

// The plan, without side files: each weight's tensors in the target's form and under its names,
// those of the codes in the shard of the codes, the others in theirs; everything else copied.
Plan PlanRepack(const Catalog& catalog, const RepackedModel& repacked, bool write_index);

// Puts the side files into the plan: config.json and hf_quant_config.json as engines read the
// target's form.
void PlanRepackSideFiles(const OpenedModel& model, const RepackedModel& repacked, bool all,
                         Plan& plan);

// `dsv3-convert repack`.
ConversionKind RepackConversion(const RepackOptions& options);

}  // namespace dsv3::convert
