#include "convert/recipes/bf16_to_fp8.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "convert/plan/expression.h"
#include "convert/plan/quantize_expression.h"
#include "convert/recipes/own_shards.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

formats::Shape ScaleShape(const formats::Shape& weight, const QuantizedWeight& described,
                          quant::BlockForm form) {
  formats::Shape shape;
  if (weight.size() == 3) shape.push_back(weight[0]);
  // compressed-tensors keeps the one scale of a matrix in a vector.
  if (form == quant::BlockForm::kTensor && weight.size() == 2) return {1};
  shape.push_back(described.ScaleRows());
  shape.push_back(described.ScaleCols());
  return shape;
}

}  // namespace

std::string_view RecipeName(quant::QuantizeRecipe recipe) {
  switch (recipe) {
    case quant::QuantizeRecipe::kDeepGemm:
      return "deepgemm";
    case quant::QuantizeRecipe::kTransformers:
      return "transformers";
    case quant::QuantizeRecipe::kLlmCompressor:
      return "llm-compressor";
    case quant::QuantizeRecipe::kDeepSeek:
      break;
  }
  return "deepseek";
}

std::string_view ScaleFmtName(quant::ScaleFmt scale_fmt) {
  switch (scale_fmt) {
    case quant::ScaleFmt::kUe8m0:
      return "ue8m0";
    case quant::ScaleFmt::kE8M0:
      return "e8m0";
    case quant::ScaleFmt::kF32:
      break;
  }
  return "f32";
}

std::string BlockName(const QuantizeBlock& block) {
  switch (block.form) {
    case quant::BlockForm::kRow:
      return "row";
    case quant::BlockForm::kTensor:
      return "tensor";
    case quant::BlockForm::kBlock:
      break;
  }
  return fmt::format("{}x{}", block.shape.rows, block.shape.cols);
}

std::string_view ScaleNamingName(ScaleNaming naming) {
  switch (naming) {
    case ScaleNaming::kScale:
      return "scale";
    case ScaleNaming::kWeightScale:
      return "weight_scale";
    case ScaleNaming::kScaleInv:
      break;
  }
  return "weight_scale_inv";
}

Fp8Form FormOfOptions(const Bf16ToFp8Options& options) {
  Fp8Form form;
  form.recipe = options.recipe.value_or(quant::QuantizeRecipe::kDeepSeek);
  form.scale_fmt = options.scale_fmt.value_or(quant::ScaleFmt::kF32);
  form.block = options.block.value_or(QuantizeBlock{});
  const bool compressed_tensors = form.recipe == quant::QuantizeRecipe::kLlmCompressor ||
                                  form.block.form != quant::BlockForm::kBlock;
  if (compressed_tensors && options.scale_name) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("--scale-name {} contradicts {}, which writes the names of "
                    "compressed-tensors (weight_scale); leave --scale-name out",
                    ScaleNamingName(*options.scale_name),
                    form.block.form != quant::BlockForm::kBlock ? "--block " + BlockName(form.block)
                                                                : "--recipe llm-compressor"));
  }
  form.naming = compressed_tensors ? ScaleNaming::kWeightScale
                                   : options.scale_name.value_or(ScaleNaming::kScaleInv);
  RequireForm(form);
  return form;
}

void RequireForm(const Fp8Form& form) {
  const std::string_view why = quant::WhyRefused(form.recipe, form.scale_fmt, form.block.form);
  if (why.empty()) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("--recipe {} does not go with --scale-fmt {} and --block {}: it {}; "
                          "--recipe deepseek and deepgemm take all",
                          RecipeName(form.recipe), ScaleFmtName(form.scale_fmt),
                          BlockName(form.block), why));
}

QuantizedWeight DescribeWeight(const Catalog& catalog, std::uint32_t weight, const Fp8Form& form,
                               quant::Nonfinite nonfinite) {
  const CatalogTensor& tensor = catalog.tensors()[weight];
  const std::size_t dimensions = tensor.shape.size();
  QuantizedWeight described;
  described.weight = weight;
  described.matrices = dimensions == 3 ? tensor.shape[0] : 1;
  described.rows = tensor.shape[dimensions - 2];
  described.cols = tensor.shape[dimensions - 1];
  described.values = FloatFormatOf(tensor.dtype).value_or(quant::FloatFormat::kBF16);
  described.nonfinite = nonfinite;
  described.format.recipe = form.recipe;
  described.format.scale_fmt = form.scale_fmt;
  described.format.block = form.block.shape;
  if (form.block.form != quant::BlockForm::kBlock) {
    described.format.block.cols = std::max<std::uint64_t>(1, described.cols);
    described.format.block.rows =
        form.block.form == quant::BlockForm::kRow ? 1 : std::max<std::uint64_t>(1, described.rows);
  }
  described.scale_shape = ScaleShape(tensor.shape, described, form.block.form);
  return described;
}

Bf16ToFp8Plan PlanBf16ToFp8(const Catalog& catalog, const TensorSelection& selection,
                            const Fp8Form& form, const Bf16ToFp8Options& options,
                            bool write_index) {
  Bf16ToFp8Plan result;
  Plan& plan = result.plan;
  plan.recipe = kBf16ToFp8;
  plan.options = OptionsForManifest(form, options);
  std::vector<bool> is_quantized(catalog.tensors_end(), false);
  for (const std::uint32_t i : selection.quantized) is_quantized[i] = true;

  std::vector<NamedExpressions> files(catalog.files_end());
  std::vector<std::pair<std::uint32_t, std::shared_ptr<FirstPass>>> passes;  // by source file
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    NamedExpressions& file = files[tensor.extent.file];
    if (!is_quantized[i]) {
      file.emplace_back(tensor.name, Copy(catalog, i));
      continue;
    }
    const QuantizedWeight weight = DescribeWeight(catalog, i, form, options.nonfinite);
    QuantizeExpressions made;
    if (NeedsTwoPasses(weight)) {
      auto first_pass = std::make_shared<FirstPass>(catalog, weight);
      made = Quantize(catalog, first_pass);
      passes.emplace_back(tensor.extent.file, std::move(first_pass));
    } else {
      made = Quantize(catalog, weight);
    }
    file.emplace_back(tensor.name, std::move(made.codes));
    file.emplace_back(ScaleNameOf(tensor.name, form.naming), std::move(made.scale));
  }
  const std::vector<std::size_t> planned =
      PlanSameShards(catalog, std::move(files), write_index, plan);
  for (auto& [file, first_pass] : passes) {
    result.passes.push_back({{planned[file]}, std::move(first_pass)});
  }
  return result;
}

std::vector<PlanOption> OptionsForManifest(const Fp8Form& form, const Bf16ToFp8Options& options) {
  return {TextOption("recipe", RecipeName(form.recipe)),
          TextOption("scale_fmt", ScaleFmtName(form.scale_fmt)),
          TextOption("block", BlockName(form.block)),
          TextOption("scale_name", ScaleNamingName(form.naming)),
          TextsOption("include", options.include),
          TextsOption("exclude", options.exclude),
          TextOption("nonfinite",
                     options.nonfinite == quant::Nonfinite::kSaturate ? "saturate" : "error"),
          FlagOption("scales_from", !options.scales_from.empty())};
}

}  // namespace dsv3::convert
