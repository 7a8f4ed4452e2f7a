#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/activation_scales.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"

namespace dsv3::convert {
namespace {

// The scales of activations, which nothing reads beside a BF16 weight.
ReportFact DroppedScales(const Catalog& catalog, const std::vector<std::uint32_t>& dropped) {
  std::vector<std::string> names;
  for (const std::uint32_t i : dropped) names.push_back(catalog.tensors()[i].name);
  return DroppedFact(std::move(names), "scale", "of activations, which only FP8 weights need");
}

}  // namespace

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
    parts.dropped = DroppedScales(model.catalog, parts.quantized.dropped);
    return MakeDequantizeRecipe(model, conversion.recipe, std::move(parts), request, progress,
                                stop);
  };
  return RunConversion(conversion, {request.input, request.output, request.run}, fs, progress,
                       stop);
}

}  // namespace dsv3::convert
