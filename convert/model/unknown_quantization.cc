#include "convert/model/unknown_quantization.h"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/scale_rules.h"
#include "convert/model/stored_instead.h"
#include "formats/dtype_kind.h"
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

std::optional<formats::Finding> FindUnexplainedCodes(const Catalog& catalog,
                                                     const ScaledWeights& weights) {
  std::uint64_t others = 0;
  const CatalogTensor* first = nullptr;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    if (!formats::IsInteger(tensor.dtype) || tensor.shape.size() != 2 ||
        !tensor.name.ends_with(".weight")) {
      continue;
    }
    const auto formed =
        std::lower_bound(weights.formed.begin(), weights.formed.end(), i,
                         [](const auto& each, std::uint32_t at) { return each.weight < at; });
    if (formed != weights.formed.end() && formed->weight == i) continue;
    if (first == nullptr) {
      first = &tensor;
    } else {
      ++others;
    }
  }
  if (first == nullptr) return std::nullopt;
  const std::string& file = catalog.files()[first->extent.file].name;
  return formats::Finding{
      formats::Severity::kWarning, "unexplained-codes", file, first->name,
      fmt::format("{}: tensor {} is {}, and neither config.json nor a tensor beside it says what "
                  "its codes mean, so its values cannot be judged{}; take the config.json that the "
                  "tool wrote which quantised the weights, or check them by other means",
                  formats::ShownPath(file), QuoteForMessage(first->name),
                  formats::DtypeName(first->dtype),
                  others == 0 ? "" : fmt::format(" ({} more such weights)", others))};
}

}  // namespace dsv3::convert
