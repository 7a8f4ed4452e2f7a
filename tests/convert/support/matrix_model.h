#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/model/expected_tensors.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "quant/codec.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/support/tiny_checkpoint.h"

// A model of a known kind that has not been quantised, with weights like trained ones, and every
// form of FP8 that bf16-to-fp8 writes.
namespace dsv3::testing {

// What its linear weights do not exceed.
inline constexpr float kMatrixLargest = 0.0625F;

// Sides that are no multiples of 32 or 128, some beyond 128; one layer of each kind and an MTP
// layer, in three shards. `dtype` is BF16, F16 or F32; with `fused` the experts of a layer are two
// 3-D tensors as transformers has them.
inline TinyCheckpoint MatrixCheckpoint(formats::Dtype dtype, bool fused = false) {
  nlohmann::json json = convert::testing::SmallConfig();
  json.update({{"hidden_size", 136},
               {"intermediate_size", 140},
               {"moe_intermediate_size", 36},
               {"n_routed_experts", 2},
               {"q_lora_rank", 33},
               {"kv_lora_rank", 40},
               {"qk_nope_head_dim", 20},
               {"qk_rope_head_dim", 12},
               {"v_head_dim", 20}});
  json.erase("quantization_config");
  json["torch_dtype"] = dtype == formats::Dtype::kBF16  ? "bfloat16"
                        : dtype == formats::Dtype::kF16 ? "float16"
                                                        : "float32";
  TinyCheckpoint checkpoint;
  checkpoint.config = json.dump(2) + "\n";
  checkpoint.side_files["tokenizer.json"] = "{}\n";

  const auto encode = [](formats::Dtype as, float value, std::string& bytes) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    std::size_t size = sizeof(bits);
    if (as != formats::Dtype::kF32) {
      bits = as == formats::Dtype::kF16 ? quant::EncodeF16(value) : quant::EncodeBF16(value);
      size = 2;
    }
    bytes.append(reinterpret_cast<const char*>(&bits), size);
  };
  std::uint64_t state = 1;
  const auto uniform = [&state] {  // from -1 to 1
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<float>(static_cast<std::int64_t>(state) >> 40) * 0x1p-23F;
  };
  using convert::TensorRole;
  const convert::ModelConfig config = convert::ParseModelConfig(checkpoint.config, "config.json");
  for (const convert::ExpectedTensor& expected : convert::ExpectedTensors(config)) {
    TinyTensor tensor{kTinyShard1, expected.name, dtype, expected.shape, ""};
    if (expected.layer == 1) tensor.shard = kTinyShard2;
    if (expected.mtp) tensor.shard = kTinyShard3;
    if (expected.role == TensorRole::kRouterBias) tensor.dtype = formats::Dtype::kF32;
    std::uint64_t elements = 1;
    for (const std::uint64_t side : expected.shape) elements *= side;
    for (std::uint64_t i = 0; i < elements; ++i) {
      // A product of two: most are small, and none is a power of two times another.
      const float value = uniform() * uniform() * kMatrixLargest;
      encode(tensor.dtype, expected.role == TensorRole::kNorm ? 1 + value : value, tensor.bytes);
    }
    if (expected.mtp && expected.role == TensorRole::kEmbedding) {
      tensor.bytes = checkpoint.Find("model.embed_tokens.weight").bytes;
    }
    if (expected.mtp && expected.role == TensorRole::kHead) {
      tensor.bytes = checkpoint.Find("lm_head.weight").bytes;
    }
    if (fused && expected.role == TensorRole::kExpertLinear) {
      const std::size_t experts = expected.name.find(".experts.") + std::strlen(".experts.");
      const bool down = expected.name.ends_with(".down_proj.weight");
      tensor.name = expected.name.substr(0, experts) + (down ? "down_proj" : "gate_up_proj");
      tensor.shape = {2, down ? 136U : 72U, down ? 36U : 136U};
      TinyTensor* whole = nullptr;
      for (TinyTensor& other : checkpoint.tensors) {
        if (other.name == tensor.name) whole = &other;
      }
      if (whole != nullptr) {
        whole->bytes += tensor.bytes;
        continue;
      }
    }
    checkpoint.tensors.push_back(std::move(tensor));
  }
  return checkpoint;
}

// Options, and how a test that uses them is called.
struct MatrixForm {
  std::string name;
  convert::Bf16ToFp8Options options;
};

// Every recipe × scale format × block × name of scales that the command takes.
inline std::vector<MatrixForm> MatrixForms() {
  using convert::ScaleNaming;
  using quant::BlockForm;
  using quant::QuantizeRecipe;
  using quant::ScaleFmt;
  const std::pair<const char*, QuantizeRecipe> recipes[] = {
      {"deepseek", QuantizeRecipe::kDeepSeek},
      {"deepgemm", QuantizeRecipe::kDeepGemm},
      {"transformers", QuantizeRecipe::kTransformers},
      {"llmcompressor", QuantizeRecipe::kLlmCompressor}};
  const std::pair<const char*, ScaleFmt> scale_fmts[] = {
      {"f32", ScaleFmt::kF32}, {"ue8m0", ScaleFmt::kUe8m0}, {"e8m0", ScaleFmt::kE8M0}};
  const std::pair<const char*, convert::QuantizeBlock> blocks[] = {
      {"128x128", {}},
      {"32x32", {BlockForm::kBlock, {32, 32}}},
      {"1x128", {BlockForm::kBlock, {1, 128}}},
      {"row", {BlockForm::kRow, {}}},
      {"tensor", {BlockForm::kTensor, {}}}};
  std::vector<MatrixForm> forms;
  for (const auto& [recipe_name, recipe] : recipes) {
    for (const auto& [fmt_name, scale_fmt] : scale_fmts) {
      for (const auto& [block_name, block] : blocks) {
        if (!quant::WhyRefused(recipe, scale_fmt, block.form).empty()) continue;
        MatrixForm form{fmt::format("{}_{}_{}", recipe_name, fmt_name, block_name), {}};
        form.options.recipe = recipe;
        form.options.scale_fmt = scale_fmt;
        form.options.block = block;
        const bool names_are_given =
            recipe == QuantizeRecipe::kLlmCompressor || block.form != BlockForm::kBlock;
        if (!names_are_given) {
          form.options.scale_name = ScaleNaming::kScale;
          forms.push_back(form);
          forms.back().name += "_scale";
          form.options.scale_name = ScaleNaming::kScaleInv;
        }
        forms.push_back(std::move(form));
      }
    }
  }
  return forms;
}

}  // namespace dsv3::testing
