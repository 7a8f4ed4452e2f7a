#include "quant/quantize.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quant/default_float_environment.h"
#include "quant/quantize_rule.h"
#include "quant/quantize_tile.h"

namespace dsv3::quant {

std::size_t FloatBytes(FloatFormat format) { return format == FloatFormat::kF32 ? 4 : 2; }

std::size_t ScaleBytes(ScaleFormat format) {
  switch (format) {
    case ScaleFormat::kE8M0:
    case ScaleFormat::kE4M3:
      return 1;
    case ScaleFormat::kBF16:
    case ScaleFormat::kF16:
      return 2;
    case ScaleFormat::kF32:
      break;
  }
  return 4;
}

std::string_view WhyRefused(QuantizeRecipe recipe, ScaleFmt scale_fmt, BlockForm form) {
  if (recipe == QuantizeRecipe::kLlmCompressor && scale_fmt != ScaleFmt::kF32) {
    return "stores its scales in the weights' own format, not as powers of two; use "
           "--scale-fmt f32";
  }
  if (recipe != QuantizeRecipe::kTransformers) return {};
  if (scale_fmt == ScaleFmt::kUe8m0) {
    return "stores scales that are powers of two as F8_E8M0, not as F32; use --scale-fmt e8m0";
  }
  if (form != BlockForm::kBlock) {
    return "stores scales of blocks, not of rows or tensors; use --block with a size";
  }
  return {};
}

ScaleFormat StoredScaleFormat(const QuantizeFormat& format, FloatFormat values) {
  if (format.recipe != QuantizeRecipe::kLlmCompressor) {
    return format.scale_fmt == ScaleFmt::kE8M0 ? ScaleFormat::kE8M0 : ScaleFormat::kF32;
  }
  const FloatFormat own = format.own.value_or(values);
  if (own == FloatFormat::kBF16) return ScaleFormat::kBF16;
  return own == FloatFormat::kF16 ? ScaleFormat::kF16 : ScaleFormat::kF32;
}

std::optional<NonfiniteValue> Quantize(const QuantizeFormat& format, const QuantizePanel& panel,
                                       Nonfinite nonfinite, std::span<std::uint8_t> codes,
                                       std::span<std::byte> scales, Quality& quality) {
  const internal::DefaultFloatEnvironment environment;
  const PanelPart part{panel.format, panel.values, 0, panel.cols};
  const bool stream = internal::Elements(part) >= internal::kStreamElements;
  const ScaleFormat stored = StoredScaleFormat(format, panel.format);
  bool go_on = true;
  // Its tiles have whole blocks.
  internal::ForEachTile(
      part, format.block.cols, [&](const internal::QuantizeTile& tile, std::uint64_t first) {
        if (!go_on) return;
        std::array<BlockState, internal::kMaxTileBlocks> states;
        std::array<internal::BlockRule, internal::kMaxTileBlocks> rules;
        go_on = internal::TakeTile(tile, states.data()) || nonfinite == Nonfinite::kSaturate;
        if (!go_on) return;
        std::byte* scale = scales.data() + tile.first_block() * ScaleBytes(stored);
        for (std::size_t i = 0; i < tile.blocks(); ++i) {
          rules[i] = internal::RuleOf(format, tile.format, states[i]);
          internal::StoreScale(stored, rules[i].scale, scale);
          scale += ScaleBytes(stored);
        }
        internal::EncodeTile(tile, rules.data(), stream, codes.data() + first, quality);
        quality.blocks += tile.blocks();
      });
  if (!go_on) return internal::FindNonfinite(part);
  return std::nullopt;
}

}  // namespace dsv3::quant
