#include "convert/model/quantized_form.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/form_table.h"
#include "convert/model/scale_names.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

constexpr std::string_view kWeight = ".weight";
constexpr std::uint64_t kWordBits = 32;

}  // namespace

std::optional<QuantizedForm> RecogniseForm(const Catalog& catalog, const ModelConfig& config,
                                           std::uint32_t position) {
  const CatalogTensor& tensor = catalog.tensors()[position];
  const bool codes = tensor.dtype == Dtype::kI32 || tensor.dtype == Dtype::kU8 ||
                     tensor.dtype == Dtype::kI8 || tensor.dtype == Dtype::kF8E4M3 ||
                     tensor.dtype == Dtype::kU32;
  // Few names of plain tensors are looked at more closely.
  if (!codes) return std::nullopt;
  const std::string_view name = tensor.name;
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const FormEvidence evidence(catalog, config, tensor, name.substr(0, dot));
  const FormRow* const row = FindFormRow(evidence, name.substr(dot + 1));
  if (row == nullptr) return std::nullopt;
  const std::string_view scale = row->scale(evidence);
  return QuantizedForm{row->name(evidence), row->layout,
                       row->bits == nullptr ? 0 : row->bits(evidence),
                       scale.empty() ? std::string() : evidence.Name(scale)};
}

std::optional<StoredCodes> FindCodes(const Catalog& catalog, const ModelConfig& config,
                                     std::string_view weight) {
  if (!weight.ends_with(kWeight)) return std::nullopt;
  const std::string_view module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view part : {"weight", "weight_packed", "qweight", "weight_blocks"}) {
    const std::uint32_t position = catalog.Find(fmt::format("{}.{}", module, part));
    if (position == Catalog::kNone) continue;
    auto form = RecogniseForm(catalog, config, position);
    if (form) return StoredCodes{position, std::move(*form)};
  }
  return std::nullopt;
}

std::uint64_t ValuesIn(const QuantizedForm& form, std::uint64_t elements) {
  switch (form.layout) {
    case CodeLayout::kPlain:
    case CodeLayout::kUnknown:
      return elements;
    case CodeLayout::kTwoInByte:
    case CodeLayout::kTwoRows:
    case CodeLayout::kFlat:
      return elements * 2;
    case CodeLayout::kWordsOfRow:
    case CodeLayout::kAwq:
    case CodeLayout::kGptq: {
      constexpr std::uint64_t kUsualBits = 4;
      return elements * kWordBits / (form.bits == 0 ? kUsualBits : form.bits);
    }
  }
  return elements;
}

std::vector<Shape> CodeShapes(const QuantizedForm& form, std::uint64_t rows, std::uint64_t cols) {
  std::vector<std::uint64_t> widths = {4, 8, 2, 3, 6, 5};
  if (form.bits != 0) widths = {form.bits};
  std::vector<Shape> shapes;
  switch (form.layout) {
    case CodeLayout::kPlain:
      return {{rows, cols}};
    case CodeLayout::kTwoInByte:
      return {{rows, CeilDiv(cols, 2)}};
    case CodeLayout::kTwoRows:
      return {{CeilDiv(rows, 2), cols}};
    case CodeLayout::kUnknown:
      return {};
    case CodeLayout::kFlat:
      return {{CeilDiv(rows * cols, 2), 1}};
    case CodeLayout::kWordsOfRow:
      // Codes of one word each, unless their width divides it.
      for (const std::uint64_t bits : widths) {
        shapes.push_back({rows, CeilDiv(cols, std::max<std::uint64_t>(1, kWordBits / bits))});
        shapes.push_back({rows, CeilDiv(cols * bits, kWordBits)});
      }
      return shapes;
    case CodeLayout::kAwq:
      for (const std::uint64_t bits : widths) {
        shapes.push_back({cols, CeilDiv(rows * bits, kWordBits)});
      }
      return shapes;
    case CodeLayout::kGptq:
      for (const std::uint64_t bits : widths) {
        shapes.push_back({CeilDiv(cols * bits, kWordBits), rows});
      }
      return shapes;
  }
  return shapes;
}

std::uint32_t CountForm(std::string_view name, bool decoded, std::vector<FormCount>& forms) {
  const auto known = std::find_if(forms.begin(), forms.end(), [&](const FormCount& form) {
    return form.name == name && form.decoded == decoded;
  });
  const auto position = static_cast<std::uint32_t>(known - forms.begin());
  if (known == forms.end()) forms.push_back({std::string(name), 0, decoded});
  ++forms[position].weights;
  return position;
}

std::vector<std::string> NamesBesideWeight(std::string_view weight) {
  constexpr std::string_view kParts[] = {
      "weight_scale_inv",
      "weight_scale",
      "weight_scale_2",
      "weight_packed",
      "weight_shape",
      "weight_zero_point",
      "weight_g_idx",
      "weight_global_scale",
      "weight_blocks",
      "weight_scales",
      "weight_offset",
      "weight_format",
      "input_global_scale",
      "input_scale",
      "input_offset",
      "deq_scale",
      "quant_bias",
      "pre_quant_scale",
      "scale",
      "qweight",
      "qzeros",
      "scales",
      "biases",
      "g_idx",
      "SCB",
      "weight.absmax",
      "weight.quant_map",
      "weight.nested_absmax",
      "weight.nested_quant_map",
      "weight.quant_state.bitsandbytes__nf4",
      "weight.quant_state.bitsandbytes__fp4",
      "weight.SCB",
  };
  if (!weight.ends_with(kWeight)) return ScaleNamesOf(weight);  // transformers' fused experts
  std::vector<std::string> names;
  const std::string_view module = weight.substr(0, weight.size() - kWeight.size());
  for (const std::string_view part : kParts) names.push_back(fmt::format("{}.{}", module, part));
  return names;
}

}  // namespace dsv3::convert
