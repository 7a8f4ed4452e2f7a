#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/layouts/layout_names.h"
#include "convert/layouts/mindformers_w8a8_names.h"
#include "convert/layouts/scaled_layout.h"
#include "convert/layouts/transformers_names.h"
#include "convert/layouts/write_layout.h"
#include "convert/model/activation_scales.h"
#include "convert/model/config_edit.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/assembled_model.h"
#include "convert/open/sharded_tensors.h"
#include "convert/plan/cast_expression.h"
#include "convert/plan/composed_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/offset_cast_expression.h"
#include "convert/recipes/counted_layers.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/kv_join.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/layout_files.h"
#include "convert/recipes/w8a8_model.h"
#include "convert/recipes/weight_dtypes.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

// MindFormers' networks take floats; the other layouts have a name for scales.
bool HasScales(const WritableLayout& layout) { return !layout.name.starts_with("mindformers-"); }

// Those with names for what msmodelslim keeps beside INT8.
bool TakesW8A8(const WritableLayout& layout) {
  return layout.name == "mindformers-infer" || layout.name == "hf";
}

// A value of the model's tensors as one of those that its files hold.
ExpressionPtr AsStored(const OpenedModel& model, ExpressionPtr value) {
  if (!model.assembled) return value;
  return Compose(std::move(value), [&](std::uint32_t tensor) { return OriginOf(model, tensor); });
}

// Begins the account of how a model is made of the same files as another one.
AssembledModel OfFilesOf(const OpenedModel& model) {
  AssembledModel assembled;
  if (model.assembled) {
    assembled.stored = model.assembled->stored;
    assembled.digests = model.assembled->digests;
    assembled.copies = model.assembled->copies;
  } else {
    assembled.stored = model.catalog;
  }
  return assembled;
}

// A tensor of a catalog as one piece; without a piece where the catalog does not have it.
ShardedTensor WholeTensor(const StackTensor& name, const Catalog& catalog) {
  const std::uint32_t position = catalog.Find(name.name);
  if (position == Catalog::kNone) return {name.name, Dtype::kU8, name.shape, {}};
  StoredPiece piece;
  piece.offsets.assign(name.shape.size(), 0);
  piece.sizes = name.shape;
  piece.stored = position;
  piece.strides = RowMajorStrides(name.shape);
  return {name.name, catalog.tensors()[position].dtype, name.shape, {std::move(piece)}};
}

class LayoutPlanner {
 public:
  LayoutPlanner(const OpenedModel& model, const WritableLayout& layout)
      : model_(model),
        layout_(layout),
        prefix_(FindNamePrefix(model.catalog)),
        bf16_names_(model),
        scaled_(FindScaledWeights(model.catalog, model.config)),
        w8a8_(TakesW8A8(layout) && IsW8A8Model(model.catalog, scaled_)) {
    if (!w8a8_) {
      RefuseOtherForms(scaled_,
                       "which this layout does not carry; only floats and FP8 weights (F8_E4M3, "
                       "F8_E5M2) with the scales that config.json describes are, and INT8 of "
                       "msmodelslim to mindformers-infer and hf",
                       "give the checkpoint that they were made from");
    }
    formats::RequireNoErrors(scaled_.findings,
                             {"fault of weights and scales", "faults of weights and scales"});
    scales_ = ScaleMap(scaled_.pairs, model.catalog.tensors().size());
  }

  LayoutPlan Make(std::uint64_t shard_bytes) {
    TakeNames();
    const std::vector<ComposedTensor> composed = ComposedTensors();
    LayoutPlan result;
    MakeSource(composed, result);
    std::vector<ShardedTensor> tensors;
    tensors.reserve(names_.size());
    for (const StackTensor& name : names_)
      tensors.push_back(WholeTensor(name, result.source.catalog));
    Composer composer(tensors, result.source.catalog);
    std::vector<LaidOutTensor> laid_out;
    laid_out.reserve(composed.size());
    for (const ComposedTensor& tensor : composed) {
      const std::string& source = names_[tensor.parts.front().source].name;
      laid_out.push_back({tensor.name, LayerOf(source, prefix_), composer.Make(tensor)});
    }
    result.plan.recipe = kLayout;
    result.converted = changed_.size();
    for (const LaidOutTensor& tensor : laid_out) {
      if (tensor.expression->rule() == "copy" && !changed_.contains(tensor.name)) ++result.copied;
    }
    PlanLayoutFiles(layout_, model_.config, std::move(laid_out), shard_bytes, result.plan);
    result.config = model_.config_text;
    result.dequantized = dequantized_;
    if (dequantized_) {
      RemovedConfig unused;
      result.config = ConfigForBf16(result.config, model_.config, unused);
    }
    if (w8a8_ && HasScales(layout_)) {
      result.description = W8A8Description(result.source.catalog);
    }
    return result;
  }

 private:
  std::vector<ComposedTensor> ComposedTensors() const {
    if (!w8a8_ || HasScales(layout_)) {
      return WriteScaledLayout(*layout_.table, model_.config, names_, layout_.variants);
    }
    // Some of the weights may be floats, such as those of MTP layers.
    return WriteLayout(*layout_.table, model_.config, names_, [&](const StackTensor& tensor) {
      const std::uint32_t held = model_.catalog.Find(tensor.name);
      std::vector<std::string_view> variants;
      if (held != Catalog::kNone && model_.catalog.tensors()[held].dtype == Dtype::kI8) {
        variants.push_back(kW8A8Variant);
      }
      return variants;
    });
  }

  // MindFormers has columns [rows, 1] as vectors.
  Shape ShapeOf(const CatalogTensor& tensor) const {
    const bool is_column = w8a8_ && !HasScales(layout_) && IsW8A8Column(tensor.name);
    return is_column ? Shape{tensor.shape[0]} : tensor.shape;
  }

  // The tensors that the layout is to hold, in the model's order.
  void TakeNames() {
    const std::vector<CatalogTensor>& tensors = model_.catalog.tensors();
    std::vector<bool> goes(tensors.size(), false);
    if (!HasScales(layout_)) {
      for (const ScaledWeight& pair : scaled_.pairs) goes[pair.scale] = true;
      for (const std::uint32_t i : FindActivationScales(model_.catalog, scaled_.pairs)) {
        goes[i] = true;
      }
    }
    for (std::uint32_t i = 0; w8a8_ && !HasScales(layout_) && i < tensors.size(); ++i) {
      if (IsLeftOutOfW8A8(model_.catalog, tensors[i])) goes[i] = true;
    }
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
      if (goes[i]) {
        dropped_.push_back(tensors[i].name);
      } else {
        positions_.push_back(i);
      }
    }
    std::sort(positions_.begin(), positions_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return PlaceInModel(tensors[a].name, prefix_) < PlaceInModel(tensors[b].name, prefix_);
    });
    names_.reserve(positions_.size());
    for (const std::uint32_t i : positions_)
      names_.push_back({tensors[i].name, ShapeOf(tensors[i])});
    if (w8a8_ && !HasScales(layout_)) AddSecondBiases();
  }

  void AddSecondBiases() {
    const std::size_t count = names_.size();
    for (std::size_t i = 0; i < count; ++i) {
      if (!names_[i].name.ends_with(".input_layernorm.bias")) continue;
      names_.push_back({SecondW8A8Bias(names_[i].name), names_[i].shape});
      positions_.push_back(positions_[i]);
    }
  }

  // msmodelslim has offsets in the dtype of the scales beside them, MindFormers in INT8.
  std::optional<Dtype> DtypeOfOffset(std::string_view name) const {
    constexpr std::string_view kOffset = ".input_offset";
    if (!w8a8_ || !name.ends_with(kOffset)) return std::nullopt;
    if (!HasScales(layout_)) return Dtype::kI8;
    const std::string_view module = name.substr(0, name.size() - kOffset.size());
    const std::uint32_t scale = model_.catalog.Find(fmt::format("{}.input_scale", module));
    return scale == Catalog::kNone ? Dtype::kF32 : model_.catalog.tensors()[scale].dtype;
  }

  // How the layout stores a tensor, which is one or a part of `name`. Training checkpoints keep
  // weights in wider floats than releases do.
  Dtype DtypeFor(const std::string& name, const std::string& model_name, Dtype now) const {
    if (HasScales(layout_)) {
      const bool wider = !model_.has_own_shards() && IsWiderFloat(now);
      return wider && bf16_names_.Hold(model_name) ? Dtype::kBF16 : now;
    }
    if (IsStoredAsF32(*layout_.table, name)) return Dtype::kF32;
    // Where BF16 would lose the bias, which engines add in F32.
    if (!bf16_names_.Hold(model_name)) return now;
    if (layout_.name == "mindformers-infer") return now;
    return Dtype::kBF16;
  }

  ExpressionPtr ValueOf(std::uint32_t tensor) {
    const ScaledWeight* const pair = HasScales(layout_) ? nullptr : scales_.OfWeight(tensor);
    if (pair == nullptr) return OriginOf(model_, tensor);
    dequantized_ = true;
    return AsStored(model_, Dequantize(model_.catalog, *pair));
  }

  // The model with the dtypes of the layout: what the plan reads.
  void MakeSource(const std::vector<ComposedTensor>& composed, LayoutPlan& result) {
    std::vector<ExpressionPtr> values(names_.size());
    std::vector<bool> changes(names_.size(), false);  // its dtype
    for (const ComposedTensor& tensor : composed) {
      for (const TensorPart& part : tensor.parts) {
        if (values[part.source]) continue;
        const std::uint32_t position = positions_[part.source];
        ExpressionPtr value = ValueOf(position);
        if (const auto offset = DtypeOfOffset(names_[part.source].name)) {
          changes[part.source] = *offset != value->dtype();
          values[part.source] =
              CastOffset(std::move(value), *offset, {"", names_[part.source].name});
          continue;
        }
        const Dtype dtype = DtypeFor(tensor.name, names_[part.source].name, value->dtype());
        RequireFloat(position, value->dtype(), dtype);
        changes[part.source] = dtype != model_.catalog.tensors()[position].dtype;
        values[part.source] = Cast(std::move(value), dtype);
      }
    }
    for (const ComposedTensor& tensor : composed) {
      const bool changed =
          std::any_of(tensor.parts.begin(), tensor.parts.end(),
                      [&](const TensorPart& part) { return changes[part.source]; });
      if (changed) changed_.insert(tensor.name);
    }
    NamedExpressions held;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (values[i]) {
        held.emplace_back(names_[i].name, std::move(values[i]));
      } else {
        dropped_.push_back(names_[i].name);
      }
    }
    AssembledModel assembled = OfFilesOf(model_);
    result.source.directory = model_.directory;
    result.source.catalog = MakeShards(std::move(held), kDefaultShardBytes, assembled);
    result.source.assembled = std::make_shared<const AssembledModel>(std::move(assembled));
    result.dropped = std::move(dropped_);
  }

  void RequireFloat(std::uint32_t tensor, Dtype from, Dtype to) const {
    if (from == to || ((from == Dtype::kF32 || from == Dtype::kF16 || from == Dtype::kBF16)))
      return;
    const CatalogTensor& source = model_.catalog.tensors()[tensor];
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {} is {}, and {} stores it as {}; save the model in BF16",
                            QuoteForMessage(source.name), formats::DtypeName(from), layout_.name,
                            formats::DtypeName(to)),
                {"", source.name});
  }

  const OpenedModel& model_;
  const WritableLayout& layout_;
  const std::string_view prefix_;
  const Bf16Names bf16_names_;
  const ScaledWeights scaled_;
  const bool w8a8_;  // whether INT8 of msmodelslim is carried
  ScaleMap scales_;
  std::vector<std::uint32_t> positions_;  // in the model's catalog, of each of names_
  std::vector<StackTensor> names_;
  std::vector<std::string> dropped_;
  std::set<std::string> changed_;  // tensors of the layout with another dtype than the model's
  bool dequantized_ = false;
};

bool HasFusedExperts(const Catalog& catalog) {
  return std::any_of(catalog.tensors().begin(), catalog.tensors().end(),
                     [](const CatalogTensor& tensor) {
                       return tensor.name.ends_with(".mlp.experts.gate_up_proj");
                     });
}

// The same model of other tensors, which are made of its own.
OpenedModel Remade(const OpenedModel& model, NamedExpressions tensors) {
  AssembledModel assembled = OfFilesOf(model);
  for (auto& [name, value] : tensors) value = AsStored(model, std::move(value));
  OpenedModel remade;
  remade.directory = model.directory;
  remade.config = model.config;
  remade.config_text = model.config_text;
  remade.missing_mtp_layers = model.missing_mtp_layers;
  remade.catalog = MakeShards(std::move(tensors), kDefaultShardBytes, assembled);
  remade.assembled = std::make_shared<const AssembledModel>(std::move(assembled));
  return remade;
}

// The model with a tensor for each expert.
OpenedModel WithExpertsApart(const OpenedModel& model) {
  std::vector<StackTensor> names;
  std::vector<ShardedTensor> tensors;
  for (std::uint32_t i = 0; i < model.catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = model.catalog.tensors()[i];
    names.push_back({tensor.name, tensor.shape});
    tensors.push_back(WholeTensor(names.back(), model.catalog));
  }
  const LayoutReading reading = ReadScaledLayout(TransformersNames(), model.config, names);
  Composer composer(tensors, model.catalog);
  NamedExpressions held;
  held.reserve(reading.tensors.size());
  for (const ComposedTensor& tensor : reading.tensors) {
    held.emplace_back(tensor.name, composer.Make(tensor));
  }
  return Remade(model, std::move(held));
}

LayoutPlan PlanWhole(const OpenedModel& model, const WritableLayout& layout,
                     std::uint64_t shard_bytes) {
  return HasFusedExperts(model.catalog)
             ? LayoutPlanner(WithExpertsApart(model), layout).Make(shard_bytes)
             : LayoutPlanner(model, layout).Make(shard_bytes);
}

}  // namespace

LayoutPlan PlanLayout(const OpenedModel& model, const WritableLayout& layout,
                      std::uint64_t shard_bytes) {
  // These keep names by which every layer is found.
  if (layout.name != "hf" && layout.name != "deepseek") RequireCountedLayers(model, layout.name);
  std::optional<JoinedKvB> whole = JoinKvB(model);
  LayoutPlan made;
  if (whole) {
    OpenedModel joined = Remade(model, std::move(whole->tensors));
    joined.config_text = std::move(whole->config);
    joined.config = ParseModelConfig(joined.config_text, formats::kConfigName);
    joined.config.modelopt = model.config.modelopt;
    joined.config.num_nextn_predict_layers = model.config.num_nextn_predict_layers;
    made = PlanWhole(joined, layout, shard_bytes);
    made.joined = std::move(whole->joined);
    made.copies = std::move(whole->equal);
  } else {
    made = PlanWhole(model, layout, shard_bytes);
  }
  const LayoutNames names(*layout.table, model.config);
  for (const std::string& name : made.dropped) {
    const std::optional<std::string_view> main_name = names.CopiedFrom(name);
    if (!main_name) continue;
    const std::uint32_t copy = model.catalog.Find(name);
    const std::uint32_t main = model.catalog.Find(*main_name);
    if (copy != Catalog::kNone && main != Catalog::kNone) made.copies.push_back({copy, main});
  }
  return made;
}

}  // namespace dsv3::convert
