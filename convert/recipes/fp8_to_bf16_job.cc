#include <utility>

#include "convert/job/runner.h"
#include "convert/model/activation_scales.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"

namespace dsv3::convert {

ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop) {
  ConversionKind conversion;
  conversion.recipe = "fp8-to-bf16";
  conversion.title = "Converted FP8 to BF16";
  conversion.converted_text = "FP8 to BF16";
  conversion.make_recipe = [&](OpenedModel& model) {
    DequantizeRecipe parts;
    parts.quantized.weights = PairScales(model.catalog, model.config);
    parts.quantized.dropped = FindActivationScales(model.catalog, parts.quantized.weights);
    // Nothing reads the scales of activations beside a BF16 weight.
    parts.dropped_what = "scale";
    parts.dropped_which = "of activations, which only FP8 weights need";
    return MakeDequantizeRecipe(model, conversion.recipe, std::move(parts), request, progress,
                                stop);
  };
  return RunConversion(conversion, {request.input, request.output, request.run}, fs, progress,
                       stop);
}

}  // namespace dsv3::convert
