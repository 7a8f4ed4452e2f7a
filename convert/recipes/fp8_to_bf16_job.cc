#include <utility>

#include "convert/job/runner.h"
#include "convert/model/activation_scales.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"

namespace dsv3::convert {

ConversionKind Fp8ToBf16Conversion(const DequantizeOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kFp8ToBf16;
  conversion.title = "Converted FP8 to BF16";
  conversion.converted_text = "FP8 to BF16";
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    DequantizeRecipe parts;
    parts.quantized.weights = PairScales(model.catalog, model.config);
    parts.quantized.dropped = FindActivationScales(model.catalog, parts.quantized.weights);
    // Nothing reads the scales of activations beside a BF16 weight.
    parts.dropped_what = "scale";
    parts.dropped_which = "of activations, which only FP8 weights need";
    return MakeDequantizeRecipe(model, kFp8ToBf16, std::move(parts), options, context);
  };
  return conversion;
}

}  // namespace dsv3::convert
