#include "convert/recipes/sample_presets.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// qk_rope_head_dim is V3's 64 in all of them; with a kv_lora_rank of 512 that makes 576 rows.
// clang-format off
constexpr SampleSizes kV3Sizes = {
    7168, 18432, 2048, 61, 128, 256, 1, 8, 8, 4, 3, 1536, 512, 128, 128, 129280, 160, 3, 6};
constexpr SampleSizes kTinySizes = {
     256,   320,   80,  4,   2,   8, 1, 2, 4, 2, 1,  192, 512,  64,  64,    384,   3, 1, 5};
constexpr SampleSizes kTinyKimiSizes = {
     256,   320,   80,  4,   2,  12, 1, 2, 1, 1, 1,  192, 512,  64,  64,    384,   4, 0, 0};
// Blocks of 128 allow 8 tensor parallel ranks, those of an expert 2. The vocabulary needs padding.
constexpr SampleSizes kTinyTpSizes = {
     192,  1024,  256,  4,  16,  32, 4, 4, 4, 2, 1,  192, 512,  64,  64,   1000,   4, 1, 5};
// The layers of V3, as small as blocks of 128 allow with 8 tensor parallel ranks.
constexpr SampleSizes kTiny61Sizes = {
      64,  1024,  128, 61,  16,   8, 8, 2, 4, 2, 3,   64,  64,  64,  64,    512,   5, 1, 6};
constexpr SampleSizes kSmallSizes = {
    2048,  5632,  512,  6,  16,  32, 1, 4, 4, 2, 1,  768, 512, 128, 128,  16384,   7, 1, 5};
// Groups of 32 columns allow 4 ranks that share an expert, and not 8.
constexpr SampleSizes kKimiInt4Sizes = {
     256,   320,  128,  3,   4,   8, 1, 2, 1, 1, 1,  192, 512,  64,  64,    384,   3, 0, 6};
// Groups of 16 columns allow 8, AWQ's of 64 two.
constexpr SampleSizes kNvFp4Sizes = {
     256,   320,  128,  3,   4,   8, 1, 2, 4, 2, 1,  192, 512,  64,  64,    384,   3, 0, 5};
constexpr SampleSizes kGlm5Sizes = {
     256,   320,   80,  4,   4,   8, 1, 2, 1, 1, 3,  192, 512,  96, 128,    384,   3, 1, 5};
constexpr SampleSizes kV2LiteSizes = {
     256,   320,   96,  3,   2,   8, 2, 3, 1, 1, 1,    0, 512,  64,  64,    384,   4, 0, 6};
constexpr SampleSizes kMoonlightSizes = {
     256,   320,   96,  3,   2,   8, 2, 3, 1, 1, 1,    0, 512,  64,  64,    384,   3, 0, 5};
// Two ranks cut blocks of 128 and groups of heads evenly.
constexpr SampleSizes kV4Sizes = {
     256,     0,  256,  5,   8,   4, 1, 2, 1, 1, 0,  128,   0,   0,   0,    384,   4, 1, 5};

constexpr SampleTraits kTiny = {.sizes = &kTinySizes};
constexpr SampleTraits kTinyV32 = {.family = SampleFamily::kV32,
                                   .linears = SampleForm::kFp8Ue8m0,
                                   .experts = SampleForm::kFp8Ue8m0,
                                   .sizes = &kTinySizes};
constexpr SampleTraits kTinyKimi = {.family = SampleFamily::kKimiK2, .sizes = &kTinyKimiSizes};
constexpr SampleTraits kTinyTp = {.sizes = &kTinyTpSizes};
constexpr SampleTraits kTiny61 = {.sizes = &kTiny61Sizes};
constexpr SampleTraits kSmall = {.sizes = &kSmallSizes};
constexpr SampleTraits kV3Shapes = {.sizes = &kV3Sizes};
constexpr SampleTraits kKimiInt4 = {.family = SampleFamily::kKimiK2,
                                    .linears = SampleForm::kPlain,
                                    .experts = SampleForm::kInt4,
                                    .sizes = &kKimiInt4Sizes};
constexpr SampleTraits kKimiK25 = {.family = SampleFamily::kKimiK25,
                                   .linears = SampleForm::kPlain,
                                   .experts = SampleForm::kInt4,
                                   .sizes = &kKimiInt4Sizes};
constexpr SampleTraits kAwq = {.linears = SampleForm::kAwq,
                               .experts = SampleForm::kAwq,
                               .sizes = &kNvFp4Sizes};
constexpr SampleTraits kNvFp4 = {.linears = SampleForm::kPlain,
                                 .experts = SampleForm::kNvFp4,
                                 .sizes = &kNvFp4Sizes};
constexpr SampleTraits kV32 = {.family = SampleFamily::kV32,
                               .linears = SampleForm::kFp8Ue8m0,
                               .experts = SampleForm::kFp8Ue8m0,
                               .f32_index_norms = true,
                               .sizes = &kTinySizes};
constexpr SampleTraits kGlm5 = {.family = SampleFamily::kGlm5, .sizes = &kGlm5Sizes};
constexpr SampleTraits kV2Lite = {.family = SampleFamily::kV2,
                                  .linears = SampleForm::kPlain,
                                  .experts = SampleForm::kPlain,
                                  .sizes = &kV2LiteSizes};
constexpr SampleTraits kMoonlight = {.family = SampleFamily::kMoonlight,
                                     .linears = SampleForm::kPlain,
                                     .experts = SampleForm::kPlain,
                                     .sizes = &kMoonlightSizes};
constexpr SampleTraits kV4 = {.family = SampleFamily::kV4,
                              .linears = SampleForm::kFp8E8M0,
                              .experts = SampleForm::kMxFp4,
                              .sizes = &kV4Sizes};
// clang-format on

}  // namespace

const SampleTraits& TraitsOf(SamplePreset preset) {
  switch (preset) {
    case SamplePreset::kTiny:
      return kTiny;
    case SamplePreset::kTinyV32:
      return kTinyV32;
    case SamplePreset::kTinyKimi:
      return kTinyKimi;
    case SamplePreset::kTinyTp:
      return kTinyTp;
    case SamplePreset::kTiny61:
      return kTiny61;
    case SamplePreset::kSmall:
      return kSmall;
    case SamplePreset::kKimiInt4:
      return kKimiInt4;
    case SamplePreset::kKimiK25:
      return kKimiK25;
    case SamplePreset::kAwq:
      return kAwq;
    case SamplePreset::kNvFp4:
      return kNvFp4;
    case SamplePreset::kV32:
      return kV32;
    case SamplePreset::kGlm5:
      return kGlm5;
    case SamplePreset::kV2Lite:
      return kV2Lite;
    case SamplePreset::kMoonlight:
      return kMoonlight;
    case SamplePreset::kV4:
      return kV4;
    case SamplePreset::kV3Shapes:
      break;
  }
  return kV3Shapes;
}

SampleForm FormOf(const SampleTraits& traits, TensorRole role) {
  if (!IsQuantized(role)) return SampleForm::kPlain;
  return role == TensorRole::kExpertLinear ? traits.experts : traits.linears;
}

Dtype PlainDtypeOf(const SampleTraits& traits, const ExpectedTensor& tensor) {
  const bool is_index_norm = tensor.name.find(".indexer.k_norm.") != std::string::npos;
  if (traits.f32_index_norms && is_index_norm) return Dtype::kF32;
  switch (tensor.role) {
    case TensorRole::kRouterBias:
    case TensorRole::kF32Parameter:
      return Dtype::kF32;
    case TensorRole::kExpertTable:
      return Dtype::kI64;
    default:
      return Dtype::kBF16;
  }
}

std::string_view NamePrefixOf(SampleFamily family) {
  return family == SampleFamily::kKimiK25 ? "language_model." : "";
}

std::vector<ExpectedTensor> TensorsBeside(const SampleTraits& traits) {
  std::vector<ExpectedTensor> tensors;
  if (traits.family != SampleFamily::kKimiK25) return tensors;
  constexpr std::uint64_t kWidth = 64;
  constexpr std::uint64_t kMlpWidth = 160;
  constexpr std::uint64_t kPatch = 14;
  constexpr std::uint64_t kColors = 3;
  constexpr std::uint64_t kMerged = 4 * kWidth;  // 2 × 2 patches
  const auto add = [&](std::string name, formats::Shape shape, TensorRole role) {
    tensors.push_back(
        {std::move(name), std::move(shape), role, ExpectedTensor::kNoLayer, /*mtp=*/false});
  };
  const auto add_linear = [&](const std::string& name, std::uint64_t rows, std::uint64_t cols) {
    add(name + ".weight", {rows, cols}, TensorRole::kUnquantizedLinear);
    add(name + ".bias", {rows}, TensorRole::kBias);
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {kWidth}, TensorRole::kNorm);
    add(name + ".bias", {kWidth}, TensorRole::kBias);
  };
  const std::string tower = "vision_tower.";
  add(tower + "patch_embed.pos_emb.weight", {8, 8, kWidth}, TensorRole::kUnquantizedLinear);
  add(tower + "patch_embed.proj.weight", {kWidth, kColors, kPatch, kPatch},
      TensorRole::kUnquantizedLinear);
  add(tower + "patch_embed.proj.bias", {kWidth}, TensorRole::kBias);
  for (const char* const block : {"encoder.blocks.0.", "encoder.blocks.1."}) {
    add_norm(tower + block + "norm0");
    add_norm(tower + block + "norm1");
    add_linear(tower + block + "wqkv", 3 * kWidth, kWidth);
    add_linear(tower + block + "wo", kWidth, kWidth);
    add_linear(tower + block + "mlp.fc0", kMlpWidth, kWidth);
    add_linear(tower + block + "mlp.fc1", kWidth, kMlpWidth);
  }
  add_norm(tower + "encoder.final_layernorm");
  add_norm("mm_projector.pre_norm");
  add_linear("mm_projector.proj.0", kMerged, kMerged);
  add_linear("mm_projector.proj.2", traits.sizes->hidden_size, kMerged);
  return tensors;
}

}  // namespace dsv3::convert
