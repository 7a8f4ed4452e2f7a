#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/job/runner.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"
#include "convert/model/module_list.h"
#include "convert/model/scale_names.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/plan/quantize_expression.h"
#include "convert/plan/quantized_weight.h"
#include "formats/finding.h"
#include "formats/manifest.h"
#include "quant/quantize.h"

// BF16, F16 or F32 checkpoint → FP8 with block scales.
namespace dsv3::convert {

// --block: blocks of a shape, or one scale a row or a tensor.
struct QuantizeBlock {
  quant::BlockForm form = quant::BlockForm::kBlock;
  quant::BlockShape shape;  // of kBlock
  friend bool operator==(const QuantizeBlock&, const QuantizeBlock&) = default;
};

struct Bf16ToFp8Options {
  // What is not given is DeepSeek's: recipe deepseek, F32 scales for 128 × 128 blocks, named
  // weight_scale_inv. With `scales_from` it is as there.
  std::optional<quant::QuantizeRecipe> recipe = {};
  std::optional<quant::ScaleFmt> scale_fmt = {};
  std::optional<QuantizeBlock> block = {};
  std::optional<ScaleNaming> scale_name = {};  // kScaleInv or kScale
  // Shell globs over whole tensor names: what is quantised beyond what the model's rules tell, and
  // what is not; the latter win.
  std::vector<std::string> include = {};
  std::vector<std::string> exclude = {};
  quant::Nonfinite nonfinite = quant::Nonfinite::kReport;
  std::filesystem::path scales_from = {};  // the original FP8 checkpoint; empty: none
};

inline constexpr char kBf16ToFp8[] = "bf16-to-fp8";

// How all quantised weights of a checkpoint are written.
struct Fp8Form {
  quant::QuantizeRecipe recipe = quant::QuantizeRecipe::kDeepSeek;
  quant::ScaleFmt scale_fmt = quant::ScaleFmt::kF32;
  QuantizeBlock block;
  ScaleNaming naming = ScaleNaming::kScaleInv;

  // Whether names, shapes and config are those of compressed-tensors.
  bool IsCompressedTensors() const { return naming == ScaleNaming::kWeightScale; }
};

// The words of the options: "deepseek", "f32", "128x128" or "row", "weight_scale_inv".
std::string_view RecipeName(quant::QuantizeRecipe recipe);
std::string_view ScaleFmtName(quant::ScaleFmt scale_fmt);
std::string BlockName(const QuantizeBlock& block);
std::string_view ScaleNamingName(ScaleNaming naming);

// Options without an original. Throws Error (kUsage) for a recipe that does not have the scale
// format or the block, and for names that contradict the recipe or the block.
Fp8Form FormOfOptions(const Bf16ToFp8Options& options);
// Throws the same Error for a form.
void RequireForm(const Fp8Form& form);

// Which tensors are quantised, and what the config says of the others.
struct TensorSelection {
  std::vector<std::uint32_t> quantized;    // positions in the catalog, ascending
  std::vector<std::uint32_t> already_fp8;  // weights that are copied with their scales
  // For the config: modules that DeepSeek's releases quantise, or that the model's rules do not
  // know, and that keep their dtype.
  std::vector<std::string> modules_to_not_convert;
  // The members of quantization_config that list them.
  std::vector<std::string> module_lists = {"modules_to_not_convert"};
  // All linear modules that keep their dtype.
  std::vector<std::string> linears_left;
  formats::Findings warnings;
};

// By the model's rules, `listed` (modules not to convert, from a config), and the options' globs.
// Throws Error: kUsage for an include that matches nothing, for globs that leave nothing, and for a
// block that gives a weight more than 2^18 scales side by side; kBadInput for an unknown model_type
// without includes, a checkpoint that is FP8 already, a selected tensor that is neither a matrix
// nor a stack of matrices, or not BF16, F16 or F32, an FP8 weight whose scale is not of `form`, and
// a name that a scale would take twice.
TensorSelection SelectTensors(const Catalog& catalog, const ModelConfig& config,
                              const Bf16ToFp8Options& options, const Fp8Form& form,
                              const ModuleList& listed);

// The same without globs, for the tensors whose role `is_chosen` holds for. Without `form` the
// weights take a form whose scales the caller checks.
TensorSelection SelectWeights(const Catalog& catalog, const ModelConfig& config,
                              bool (*is_chosen)(TensorRole), const Fp8Form* form,
                              const ModuleList& listed);

// A selected tensor in this form.
QuantizedWeight DescribeWeight(const Catalog& catalog, std::uint32_t weight, const Fp8Form& form,
                               quant::Nonfinite nonfinite);

// A plan, and the weights that its preflight must read first.
struct Bf16ToFp8Plan {
  Plan plan;
  struct Pass {
    std::vector<std::size_t> files;  // that need it, positions in plan.files
    std::shared_ptr<FirstPass> first_pass;
  };
  std::vector<Pass> passes;
};

// What the manifest records of the options.
std::vector<PlanOption> OptionsForManifest(const Fp8Form& form, const Bf16ToFp8Options& options);

// Each selected tensor quantised, its scale in the same file; everything else copied; each tensor
// stays in the shard it was in. Fills files, options, index and totals; side files are the
// caller's.
Bf16ToFp8Plan PlanBf16ToFp8(const Catalog& catalog, const TensorSelection& selection,
                            const Fp8Form& form, const Bf16ToFp8Options& options, bool write_index);

// The value of quantization_config for this form as one line of JSON: as DeepSeek writes it, or as
// compressed-tensors 0.20 does.
std::string QuantizationConfigJson(const Fp8Form& form, const TensorSelection& selection);

// A quantization_config that stood in a config: the member's path, and its value as it was spelled.
struct KeptQuantization {
  std::string member;
  std::string json;
};

// The quantization_config of a config's text, wherever it is; nothing when there is none.
std::optional<KeptQuantization> QuantizationOf(const std::string& config_text,
                                               const ModelConfig& config);

// A quantization_config's value, parsed. Throws Error (kBadInput), `file` is the name for errors.
QuantizationConfig ParseKeptQuantization(const KeptQuantization& kept, const std::string& file);

// Text of config.json with the quantization_config `made`: in the place of the one that it has (a
// stale one), else under the path of `kept`, else at the end. `kept` is written as it is spelled
// where it says the same. Every other byte is as it was.
std::string SetQuantizationConfig(const std::string& config_text, const ModelConfig& config,
                                  const std::string& made,
                                  const std::optional<KeptQuantization>& kept);

// The text with `expert_dtype` fp8 where the model is DeepSeek-V4: engines take its experts for FP4
// where that is missing.
std::string WithFp8Experts(const std::string& config_text, const ModelConfig& config);

// SetQuantizationConfig with that of this form, and WithFp8Experts.
std::string ConfigForFp8(const std::string& config_text, const ModelConfig& config,
                         const Fp8Form& form, const TensorSelection& selection,
                         const std::optional<KeptQuantization>& kept);

// The quantization_config that the source's config has, or had before the source was converted to
// BF16, by the manifest beside it.
std::optional<KeptQuantization> KeptOf(const OpenedModel& source,
                                       const std::optional<formats::Manifest>& manifest);
// What the conversion that made the source left beside it.
std::optional<formats::Manifest> ReadSourceManifest(const OpenedModel& source);

// `dsv3-convert bf16-to-fp8`.
ConversionKind Bf16ToFp8Conversion(const Bf16ToFp8Options& options = {});

}  // namespace dsv3::convert
