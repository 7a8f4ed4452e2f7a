#include "convert/recipes/gguf_weights.h"

#include <memory>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/box.h"
#include "convert/model/quantized_form.h"
#include "convert/model/tensor_match.h"
#include "convert/model/v4_tensors.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/gguf_encode_expression.h"
#include "convert/plan/gguf_four_bit_expression.h"
#include "convert/plan/narrow_integers_expression.h"
#include "convert/plan/quantized_weight.h"
#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "quant/codes.h"

namespace dsv3::convert {

using formats::GgufType;
using formats::Shape;

namespace {

// Whether llama.cpp has a tensor of this name and shape in F32 in every file.
bool IsAlwaysF32(std::string_view gguf_name, const Shape& shape) {
  return shape.size() < 2 || !gguf_name.ends_with(".weight") ||
         gguf_name.ends_with("_norm.weight") || gguf_name.ends_with("ffn_gate_inp.weight") ||
         gguf_name.ends_with("indexer.proj.weight");
}

}  // namespace

GgufWeights::GgufWeights(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                         const GgufWeightTypes& types, GgufArchitecture architecture)
    : prefix(FindNamePrefix(model.catalog)),
      catalog_(model.catalog),
      config_(model.config),
      scales_(weights, model.catalog.tensors().size()),
      types_(types),
      architecture_(architecture),
      used_(model.catalog.tensors().size(), false),
      zeros_(model.catalog.tensors().size(), false) {
  for (const ScaledWeight& weight : weights) {
    if (weight.zeros != Catalog::kNone) zeros_[weight.zeros] = true;
  }
}

std::string GgufWeights::NameOf(const std::string& name) const {
  return config_.v4 ? V4Name(prefix, name) : std::string(prefix) + name;
}

std::optional<std::uint32_t> GgufWeights::Find(const std::string& name) const {
  const std::string whole = NameOf(name);
  const std::uint32_t i = catalog_.Find(whole);
  if (i != Catalog::kNone) return i;
  if (!name.ends_with(".weight")) return std::nullopt;
  const std::optional<StoredCodes> codes = FindCodes(catalog_, config_, whole);
  if (!codes) return std::nullopt;
  return codes->position;
}

std::uint32_t GgufWeights::Need(const std::string& name) const {
  const std::optional<std::uint32_t> i = Find(name);
  if (i) return *i;
  const std::string whole = NameOf(name);
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {} is missing, and a GGUF file needs it; a layout with other "
                          "names becomes one of Hugging Face's with dsv3-convert layout --to hf",
                          QuoteForMessage(whole)),
              {"", whole});
}

std::optional<KvHalves> GgufWeights::FindHalves(const std::string& name) const {
  return FindKvHalves(catalog_, NameOf(name));
}

std::optional<std::uint32_t> GgufWeights::FindFused(const std::string& name) const {
  const std::uint32_t i = FindFusedExperts(catalog_, NameOf(name));
  if (i == Catalog::kNone) return std::nullopt;
  return i;
}

void GgufWeights::Refuse(std::uint32_t tensor, std::string_view problem) const {
  const CatalogTensor& refused = catalog_.tensors()[tensor];
  const std::string& file = catalog_.files()[refused.extent.file].name;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} {}", formats::ShownPath(file),
                          QuoteForMessage(refused.name), problem),
              {file, refused.name});
}

ExpressionPtr GgufWeights::ValueOf(std::uint32_t tensor) {
  used_[tensor] = true;
  if (const ScaledWeight* const pair = scales_.OfWeight(tensor)) {
    return DequantizeToF32(catalog_, *pair);
  }
  const formats::Dtype dtype = catalog_.tensors()[tensor].dtype;
  if (!FloatFormatOf(dtype)) {
    Refuse(tensor, fmt::format("is {}, and not one of the forms of weights that become GGUF",
                               formats::DtypeName(dtype)));
  }
  return Copy(catalog_, tensor);
}

GgufType GgufWeights::TypeFor(std::string_view gguf_name, const Shape& shape) const {
  if (IsAlwaysF32(gguf_name, shape)) return GgufType::kF32;
  return formats::GgufNumBytes(types_.type, shape) ? types_.type : GgufType::kF16;
}

void GgufWeights::Count(const Expression& from, GgufType to) {
  if (from.dtype() != DtypeOfGguf(to) || from.rule() != "copy") ++converted;
}

GgufWeights::Made GgufWeights::Encoded(ExpressionPtr value, std::string_view gguf_name) const {
  Made made;
  made.shape = value->shape();
  made.type = TypeFor(gguf_name, made.shape);
  made.bytes = EncodeGguf(std::move(value), made.type);
  return made;
}

// The weight of four bits that is to stay; nullptr where the tensor is none, or codes do not stay.
const ScaledWeight* GgufWeights::ToKeep(std::uint32_t tensor) const {
  const ScaledWeight* const pair = types_.keep_4bit ? scales_.OfWeight(tensor) : nullptr;
  return pair != nullptr && quant::CodeBits(pair->format) == 4 ? pair : nullptr;
}

void GgufWeights::RefuseToKeep(std::uint32_t tensor, const ScaledWeight& weight) const {
  const std::optional<QuantizedForm> form = RecogniseForm(catalog_, config_, tensor);
  // Only those with an indexer multiply with the scale of a whole expert.
  const bool is_lost =
      weight.tensor_scale != Catalog::kNone && (architecture_ == GgufArchitecture::kDeepSeek2 ||
                                                architecture_ == GgufArchitecture::kDeepSeek4);
  Refuse(tensor,
         fmt::format(
             "holds {} weights in groups of {}{}, and --keep-4bit keeps INT4 in groups of 32 "
             "without zero points, and MXFP4{}; leave the option out",
             form ? form->name : "4-bit", weight.block.cols,
             weight.zeros == Catalog::kNone ? "" : " with zero points",
             is_lost ? fmt::format(" (llama.cpp's {} does not multiply experts with the scale that "
                                   "NVFP4 has for the whole tensor, so its codes would give other "
                                   "values)",
                                   NameOfGgufArchitecture(architecture_))
                     : ""));
}

GgufWeights::Made GgufWeights::Whole(std::uint32_t tensor, std::string_view gguf_name) {
  const ScaledWeight* const pair = ToKeep(tensor);
  if (pair == nullptr || IsAlwaysF32(gguf_name, {pair->rows, pair->cols})) {
    ExpressionPtr value = ValueOf(tensor);
    Made made = Encoded(value, gguf_name);
    Count(*value, made.type);
    return made;
  }
  const std::optional<GgufType> type = FourBitGgufType(*pair);
  if (!type) RefuseToKeep(tensor, *pair);
  used_[tensor] = true;
  kept.push_back(*pair);
  return {FourBitGguf(catalog_, *pair), *type, {pair->rows, pair->cols}};
}

GgufWeights::Made GgufWeights::Stored(std::uint32_t tensor, std::string_view gguf_name) {
  if (scales_.OfWeight(tensor) != nullptr) return Whole(tensor, gguf_name);
  const ExpressionPtr value = ValueOf(tensor);
  const Shape& shape = value->shape();
  Made made{value, GgufType::kF32, shape};
  const bool is_f32 = shape.size() < 2 || gguf_name.ends_with("_norm.weight");
  if (!is_f32 && value->dtype() == formats::Dtype::kBF16) made.type = GgufType::kBF16;
  if (!is_f32 && value->dtype() == formats::Dtype::kF16) made.type = GgufType::kF16;
  Count(*value, made.type);
  made.bytes = EncodeGguf(value, made.type);
  return made;
}

GgufWeights::Made GgufWeights::Table(std::uint32_t tensor) {
  const CatalogTensor& table = catalog_.tensors()[tensor];
  used_[tensor] = true;
  if (table.dtype == formats::Dtype::kI32) {
    return {Copy(catalog_, tensor), GgufType::kI32, table.shape};
  }
  if (table.dtype != formats::Dtype::kI64) {
    Refuse(tensor, fmt::format("is {}, and was to be a table of integers, I64 or I32",
                               formats::DtypeName(table.dtype)));
  }
  ++converted;
  return {NarrowIntegers(catalog_, tensor), GgufType::kI32, table.shape};
}

std::vector<std::string> GgufWeights::LeftOut(
    const std::function<bool(std::string_view name)>& is_beside) const {
  std::vector<std::string> names;
  for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) {
    const std::string& name = catalog_.tensors()[i].name;
    if (used_[i]) continue;
    if (is_beside(name)) {
      names.push_back(name);
    } else if (scales_.OfScale(i) == nullptr && !zeros_[i] &&
               !name.ends_with(".rotary_emb.inv_freq")) {
      Refuse(i, fmt::format("has no name in a GGUF file of architecture {}; llama.cpp cannot load "
                            "a model with it",
                            NameOfGgufArchitecture(architecture_)));
    }
  }
  return names;
}

GgufWeights::Made GgufWeights::Stacked(const std::vector<std::uint32_t>& tensors,
                                       std::string_view gguf_name) {
  std::vector<SlicePart> parts;
  parts.reserve(tensors.size());
  Made stack;
  for (const std::uint32_t tensor : tensors) {
    Made made = Whole(tensor, gguf_name);
    if (parts.empty()) {
      stack.type = made.type;
      stack.shape = made.shape;
    }
    if (made.type != stack.type || made.shape != stack.shape) {
      Refuse(tensor, fmt::format("becomes {} of shape {}, and {} {} of shape {}; a GGUF file has "
                                 "them in one tensor, {}",
                                 formats::GgufTypeInfoOf(made.type).name,
                                 formats::ShapeToString(made.shape),
                                 QuoteForMessage(catalog_.tensors()[tensors.front()].name),
                                 formats::GgufTypeInfoOf(stack.type).name,
                                 formats::ShapeToString(stack.shape), gguf_name));
    }
    const MatrixShape bytes = MatrixOf(made.bytes->shape());
    parts.push_back({std::move(made.bytes), convert::Whole(bytes)});
  }
  stack.shape.insert(stack.shape.begin(), tensors.size());
  stack.bytes = std::make_shared<SliceExpression>(
      DtypeOfGguf(stack.type), ShapeOfGguf(stack.type, stack.shape), std::move(parts));
  return stack;
}

ExpressionPtr GgufWeights::ToBeCut(std::uint32_t tensor) {
  if (ToKeep(tensor) != nullptr) {
    Refuse(tensor,
           "holds 4-bit weights, and a GGUF file has them transposed, so that their groups do not "
           "stay together as --keep-4bit asks; leave the option out");
  }
  return ValueOf(tensor);
}

}  // namespace dsv3::convert
