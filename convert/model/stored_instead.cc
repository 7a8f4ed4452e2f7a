#include "convert/model/stored_instead.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "convert/model/quantized_form.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::string_view kWeight = ".weight";

bool IsCodes(Dtype dtype) {
  return dtype == Dtype::kI8 || dtype == Dtype::kU8 || dtype == Dtype::kI16 ||
         dtype == Dtype::kU16 || dtype == Dtype::kI32 || dtype == Dtype::kU32;
}

// Whether a known form keeps a tensor of this name beside the codes of the module.
bool IsCompanion(std::string_view name, std::string_view module) {
  const std::string_view part = name.substr(module.size() + 1);
  if (part == "weight_packed" || part == "qweight" || part == "weight_blocks") return false;
  const std::vector<std::string> names = NamesBesideWeight(std::string(module) + ".weight");
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

StoredInstead::StoredInstead(const Catalog& catalog) {
  const auto add = [&](std::string_view name, std::size_t end, std::uint32_t position) {
    if (end == std::string_view::npos || end == 0) return;
    const std::string_view module = name.substr(0, end);
    if (!IsCompanion(name, module)) by_module_.emplace(module, position);
  };
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (!IsCodes(catalog.tensors()[i].dtype)) continue;
    const std::string_view name = catalog.tensors()[i].name;
    const std::size_t dot = name.rfind('.');
    if (dot == std::string_view::npos) continue;
    add(name, dot, i);
    // Parts of a weight: "….weight._data".
    add(name, dot == 0 ? dot : name.rfind('.', dot - 1), i);
    const std::size_t line = name.rfind('_');
    if (line > dot) add(name, line, i);
  }
}

std::uint32_t StoredInstead::Find(std::string_view weight) const {
  if (weight.ends_with(kWeight)) weight.remove_suffix(kWeight.size());
  const auto found = by_module_.find(weight);
  return found == by_module_.end() ? Catalog::kNone : found->second;
}

bool IsKnownMethod(const ModelConfig& config) {
  constexpr std::string_view kKnown[] = {"",
                                         "fp8",
                                         "compressed-tensors",
                                         "gptq",
                                         "awq",
                                         "bitsandbytes",
                                         "quark",
                                         "mxfp4",
                                         "w4afp8",
                                         "blockwise_int8",
                                         "auto-round",
                                         "fbgemm_fp8",
                                         "mxfp8",
                                         "w8a8_int8",
                                         "ascend"};
  if (!config.quantization) return true;
  const std::string_view method = config.quantization->quant_method;
  return method.starts_with("modelopt") ||
         std::find(std::begin(kKnown), std::end(kKnown), method) != std::end(kKnown);
}

std::string UnknownFormText(const ModelConfig& config, const Catalog& catalog,
                            std::uint32_t instead) {
  const bool unknown_method = !IsKnownMethod(config);
  if (!unknown_method && instead == Catalog::kNone) return "";
  std::string text(kUnderThisName);
  if (instead != Catalog::kNone) {
    const CatalogTensor& tensor = catalog.tensors()[instead];
    text += fmt::format("; {} ({} {}) is there in its place", QuoteForMessage(tensor.name),
                        formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape));
  }
  if (config.quantization) {
    text += fmt::format("{} the config says that the weights are quantised by {}",
                        instead == Catalog::kNone ? ";" : ", and",
                        QuoteForMessage(config.quantization->quant_method));
  }
  return text + ", a form that is not known here: give the checkpoint that they were made from";
}

}  // namespace dsv3::convert
