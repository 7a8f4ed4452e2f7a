#include "convert/recipes/gguf_tensors.h"

#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/gguf_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"
#include "convert/model/quantized_form.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/gguf_encode_expression.h"
#include "convert/plan/quantized_weight.h"
#include "convert/plan/slice_expression.h"
#include "convert/plan/transpose_expression.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::GgufType;
using formats::Shape;

// llama.cpp's rule of what is never quantised.
bool IsAlwaysF32(std::string_view name, const Shape& shape) {
  return shape.size() < 2 || !name.ends_with(".weight") || name.ends_with("_norm.weight") ||
         name.ends_with("ffn_gate_inp.weight");
}

class TensorPlanner {
 public:
  TensorPlanner(const OpenedModel& model, const std::vector<ScaledWeight>& weights, GgufType type)
      : catalog_(model.catalog),
        config_(model.config),
        prefix_(FindNamePrefix(model.catalog)),
        scales_(weights, model.catalog.tensors().size()),
        used_(model.catalog.tensors().size(), false),
        type_(type) {}

  GgufTensors Make(const std::vector<std::uint32_t>& dropped) {
    const std::span<const GgufNamePair> outside = GgufModelNames();
    AddPair(outside.front());  // the embedding
    for (std::uint64_t layer = 0; layer < config_.num_hidden_layers; ++layer) AddLayer(layer);
    for (const GgufNamePair& pair : outside.subspan(1)) {
      if (config_.tie_word_embeddings && pair.model == kHeadName) {
        Drop(std::string(pair.model));
      } else {
        AddPair(pair);
      }
    }
    for (const std::uint32_t i : dropped) used_[i] = true;
    for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) TakeLeft(i);
    return std::move(result_);
  }

 private:
  void AddPair(const GgufNamePair& pair) { Add(std::string(pair.model), std::string(pair.gguf)); }

  void AddLayer(std::uint64_t layer) {
    const std::string of = ModelLayerPrefix(layer);
    const std::string to = GgufLayerPrefix(layer);
    for (const GgufNamePair& pair : GgufLayerNames()) {
      const std::string name = of + std::string(pair.model);
      if (Find(name)) Add(name, to + std::string(pair.gguf));
    }
    AddKvB(of + std::string(kKvBName), to);
    if (!IsMoeLayer(config_, layer)) return;
    for (const GgufNamePair& pair : GgufExpertNames()) AddExperts(of, to, pair);
  }

  // A tensor of the model by its name without the prefix, or the codes that make it.
  std::optional<std::uint32_t> Find(const std::string& name) const {
    const std::string whole = std::string(prefix_) + name;
    const std::uint32_t i = catalog_.Find(whole);
    if (i != Catalog::kNone) return i;
    if (!name.ends_with(".weight")) return std::nullopt;
    const std::optional<StoredCodes> codes = FindCodes(catalog_, config_, whole);
    if (!codes) return std::nullopt;
    return codes->position;
  }

  std::uint32_t Need(const std::string& name) const {
    const std::optional<std::uint32_t> i = Find(name);
    if (i) return *i;
    const std::string whole = std::string(prefix_) + name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {} is missing, and a GGUF file needs it; a layout with other "
                            "names becomes one of Hugging Face's with dsv3-convert layout --to hf",
                            QuoteForMessage(whole)),
                {"", whole});
  }

  // The values of a tensor of the model: codes times scales in F32, other floats as they are.
  ExpressionPtr ValueOf(std::uint32_t i) {
    const CatalogTensor& tensor = catalog_.tensors()[i];
    used_[i] = true;
    if (const ScaledWeight* const pair = scales_.OfWeight(i)) {
      return DequantizeToF32(catalog_, *pair);
    }
    if (!FloatFormatOf(tensor.dtype)) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: tensor {} is {}, and not one of the forms of weights that "
                              "become GGUF",
                              formats::ShownPath(catalog_.files()[tensor.extent.file].name),
                              QuoteForMessage(tensor.name), formats::DtypeName(tensor.dtype)),
                  {catalog_.files()[tensor.extent.file].name, tensor.name});
    }
    return Copy(catalog_, i);
  }

  GgufType TypeFor(const std::string& name, const Shape& shape) const {
    if (IsAlwaysF32(name, shape)) return GgufType::kF32;
    return formats::GgufNumBytes(type_, shape) ? type_ : GgufType::kF16;
  }

  void Count(const Expression& from, Dtype to, std::uint64_t tensors = 1) {
    if (from.dtype() != to || from.rule() != "copy") result_.converted += tensors;
  }

  void Add(const std::string& name, std::string gguf) {
    ExpressionPtr value = ValueOf(Need(name));
    const Shape shape = value->shape();
    const GgufType type = TypeFor(gguf, shape);
    Count(*value, DtypeOfGguf(type));
    result_.tensors.push_back({std::move(gguf), type, shape, EncodeGguf(std::move(value), type)});
  }

  // kv_b_proj has for each head the rows that make keys, then those that make values. The file has
  // both apart, the keys' transposed.
  void AddKvB(const std::string& name, const std::string& to) {
    const ExpressionPtr value = ValueOf(Need(name));
    const std::uint64_t heads = config_.num_attention_heads;
    const std::uint64_t key_rows = config_.qk_nope_head_dim;
    const std::uint64_t value_rows = config_.v_head_dim;
    const std::uint64_t cols = config_.kv_lora_rank;
    const auto rows_of = [&](std::uint64_t skip, std::uint64_t rows) {
      std::vector<SlicePart> parts;
      for (std::uint64_t head = 0; head < heads; ++head) {
        const std::uint64_t begin = head * (key_rows + value_rows) + skip;
        parts.push_back({value, {begin, begin + rows, 0, cols}});
      }
      return std::make_shared<SliceExpression>(value->dtype(), Shape{heads, rows, cols},
                                               std::move(parts));
    };
    const Shape key_shape = {heads, cols, key_rows};
    const std::string key_name = to + std::string(kGgufKeysName);
    const GgufType key_type = TypeFor(key_name, key_shape);
    Count(*value, DtypeOfGguf(key_type));
    result_.tensors.push_back({key_name, key_type, key_shape,
                               EncodeGguf(TransposeMatrices(rows_of(0, key_rows)), key_type)});
    const Shape value_shape = {heads, value_rows, cols};
    const std::string value_name = to + std::string(kGgufValuesName);
    const GgufType value_type = TypeFor(value_name, value_shape);
    result_.tensors.push_back({value_name, value_type, value_shape,
                               EncodeGguf(rows_of(key_rows, value_rows), value_type)});
  }

  void AddExperts(const std::string& of, const std::string& to, const GgufNamePair& pair) {
    const std::string name = to + std::string(pair.gguf);
    std::vector<SlicePart> parts;
    Shape shape;
    GgufType type = GgufType::kF32;
    for (std::uint64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      ExpressionPtr value = ValueOf(Need(of + ExpertMatrixName(expert, pair.model)));
      shape = value->shape();
      type = TypeFor(name, shape);
      Count(*value, DtypeOfGguf(type));
      ExpressionPtr encoded = EncodeGguf(std::move(value), type);
      const MatrixShape bytes = MatrixOf(encoded->shape());
      parts.push_back({std::move(encoded), Whole(bytes)});
    }
    shape.insert(shape.begin(), config_.n_routed_experts);
    const Dtype dtype = parts.front().origin->dtype();
    ExpressionPtr stacked =
        std::make_shared<SliceExpression>(dtype, ShapeOfGguf(type, shape), std::move(parts));
    result_.tensors.push_back({name, type, shape, std::move(stacked)});
  }

  void Drop(const std::string& name) {
    if (const std::optional<std::uint32_t> i = Find(name)) used_[*i] = true;
  }

  // What no tensor of the file is made of: of MTP layers, of a vision tower, scales; nothing else
  // may be.
  void TakeLeft(std::uint32_t i) {
    if (used_[i]) return;
    const CatalogTensor& tensor = catalog_.tensors()[i];
    const std::optional<std::uint64_t> layer = LayerOf(tensor.name, prefix_);
    const bool is_mtp = layer && *layer >= config_.num_hidden_layers;
    if (is_mtp || !tensor.name.starts_with(prefix_)) {
      result_.left_out.push_back(tensor.name);
    } else if (scales_.OfScale(i) == nullptr && !tensor.name.ends_with(".rotary_emb.inv_freq")) {
      const std::string& file = catalog_.files()[tensor.extent.file].name;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: tensor {} has no name in a GGUF file of architecture deepseek2; "
                              "llama.cpp cannot load a model with it",
                              formats::ShownPath(file), QuoteForMessage(tensor.name)),
                  {file, tensor.name});
    }
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  const std::string_view prefix_;
  const ScaleMap scales_;
  std::vector<bool> used_;
  const GgufType type_;
  GgufTensors result_;
};

}  // namespace

GgufTensors PlanGgufTensors(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
                            const std::vector<std::uint32_t>& dropped, GgufType type) {
  return TensorPlanner(model, weights, type).Make(dropped);
}

}  // namespace dsv3::convert
