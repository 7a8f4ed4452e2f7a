#include "convert/model/unknown_quantization.h"

#include <string_view>

#include <fmt/format.h>

#include "convert/model/scale_rules.h"
#include "convert/model/stored_instead.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {

std::string DescribeUnknownQuantization(const FormEvidence& evidence) {
  const ModelConfig& config = evidence.config();
  if (!IsKnownMethod(config)) {
    return fmt::format("the method {} (quant_method) of config.json is not known",
                       QuoteForMessage(config.quantization->quant_method));
  }
  if (!evidence.HasKnownAlgorithm()) {
    return fmt::format("the algorithm {} (quant_algo) of ModelOpt is not known",
                       QuoteForMessage(evidence.Algorithm()));
  }
  if (!config.quantization) return "";
  const std::string_view format = UnknownFormat(*config.quantization);
  if (format.empty()) return "";
  return fmt::format("the format {} of config.json is not known", QuoteForMessage(format));
}

std::optional<formats::Finding> FindUnknownQuantization(const Catalog& catalog,
                                                        const ModelConfig& config,
                                                        const ScaledWeights& weights) {
  if (weights.formed.empty()) return std::nullopt;
  const CatalogTensor& codes = catalog.tensors()[weights.formed.front().weight];
  const std::string_view module = std::string_view(codes.name).substr(0, codes.name.rfind('.'));
  const std::string unknown =
      DescribeUnknownQuantization(FormEvidence(catalog, config, codes, module));
  if (unknown.empty()) return std::nullopt;
  const std::string& file = catalog.files()[codes.extent.file].name;
  return formats::Finding{
      formats::Severity::kWarning, "unknown-quantization", file, codes.name,
      fmt::format("{}: tensor {} holds {} codes, but {}, so what they mean cannot be judged; take "
                  "the config.json that the tool wrote which quantised the weights, or check "
                  "them by other means",
                  formats::ShownPath(file), QuoteForMessage(codes.name),
                  formats::DtypeName(codes.dtype), unknown)};
}

}  // namespace dsv3::convert
