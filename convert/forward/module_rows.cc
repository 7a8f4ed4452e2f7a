#include "convert/forward/module_rows.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string_view>

#include <fmt/format.h>

#include "convert/model/layer_kinds.h"
#include "formats/shape.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kAllRows = std::numeric_limits<std::uint64_t>::max();
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kGateUp = "mlp.experts.gate_up_proj";
constexpr std::string_view kDown = "mlp.experts.down_proj";
constexpr std::string_view kExperts = "mlp.experts.";
constexpr std::string_view kKeyValues = "self_attn.kv_b_proj.weight";
constexpr std::string_view kKeys = "self_attn.k_b_proj.weight";
constexpr std::string_view kValues = "self_attn.v_b_proj.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";

// A row of a tensor, and how many rows from it on lie one behind the other.
struct Place {
  std::string name;
  std::uint64_t row = 0;
  std::uint64_t run = kAllRows;
  std::uint64_t all_rows = 0;  // of the tensor
};

std::string Without(std::string_view name, std::string_view suffix) {
  return std::string(name.substr(0, name.size() - suffix.size()));
}

std::uint64_t RowsOf(const ModelWeights& weights, std::uint32_t tensor) {
  const formats::Shape& shape = weights.catalog().tensors()[tensor].shape;
  std::uint64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::string NameOf(const ModelWeights& weights, std::uint32_t tensor) {
  return weights.catalog().tensors()[tensor].name.substr(weights.prefix().size());
}

// The place by the names that most checkpoints have: every expert in tensors of its own, kv_b_proj
// whole.
Place CommonPlace(const ModelWeights& weights, const ModelConfig& config, const WeightRows& rows,
                  std::uint64_t row, bool is_product) {
  const std::string name = NameOf(weights, rows.tensor);
  if (name.ends_with(kGateUp)) {
    const std::uint64_t width = config.moe_intermediate_size;
    const std::uint64_t in = row % (2 * width);
    return {fmt::format("{}{}{}.{}_proj.weight", Without(name, kGateUp), kExperts,
                        row / (2 * width), in < width ? "gate" : "up"),
            in % width, width - in % width, width};
  }
  if (name.ends_with(kDown)) {
    const std::uint64_t width = config.hidden_size;
    return {fmt::format("{}{}{}.down_proj.weight", Without(name, kDown), kExperts, row / width),
            row % width, width - row % width, width};
  }
  const std::uint64_t nope = config.qk_nope_head_dim;
  const std::uint64_t v = config.v_head_dim;
  const std::uint64_t all = config.num_attention_heads * (nope + v);
  if (name.ends_with(kKeys)) {
    return {Without(name, kKeys) + std::string(kKeyValues), row / nope * (nope + v) + row % nope,
            nope - row % nope, all};
  }
  if (name.ends_with(kValues)) {
    return {Without(name, kValues) + std::string(kKeyValues), row / v * (nope + v) + nope + row % v,
            v - row % v, all};
  }
  return {name == kEmbedding && is_product ? kHead : name, row, kAllRows,
          RowsOf(weights, rows.tensor)};
}

// "5" and "up" of "…mlp.experts.5.up_proj.weight"; nothing for other names.
struct ExpertPart {
  std::string before;
  std::uint64_t expert = 0;
  std::string part;
};
std::optional<ExpertPart> ExpertPartOf(const std::string& name) {
  const std::size_t at = name.find(kExperts);
  if (at == std::string::npos) return std::nullopt;
  ExpertPart found;
  found.before = name.substr(0, at);
  const char* const end = name.data() + name.size();
  const auto [next, error] = std::from_chars(name.data() + at + kExperts.size(), end, found.expert);
  if (error != std::errc()) return std::nullopt;
  const std::string_view rest(next, static_cast<std::size_t>(end - next));
  for (const std::string_view part : {"gate", "up", "down"}) {
    if (rest == fmt::format(".{}_proj.weight", part)) found.part = part;
  }
  if (found.part.empty()) return std::nullopt;
  return found;
}

// Where a model keeps what most checkpoints keep at `place`; nothing where it has none.
std::optional<Place> PlaceIn(const ModelWeights& weights, const ModelConfig& config,
                             const Place& place) {
  std::string name = place.name;
  if (name == kHead && config.tie_word_embeddings) name = kEmbedding;
  if (weights.Has(name)) return Place{name, place.row, kAllRows, place.all_rows};
  if (const auto part = ExpertPartOf(name)) {
    const bool down = part->part == "down";
    const std::string fused = part->before + std::string(down ? kDown : kGateUp);
    if (!weights.Has(fused)) return std::nullopt;
    const std::uint64_t in_expert = down ? place.all_rows : 2 * place.all_rows;
    const std::uint64_t first = part->part == "up" ? place.all_rows : 0;
    return Place{fused, part->expert * in_expert + first + place.row, place.all_rows - place.row,
                 config.n_routed_experts * in_expert};
  }
  if (name.ends_with(kKeyValues)) {
    const std::string before = Without(name, kKeyValues);
    const std::uint64_t nope = config.qk_nope_head_dim;
    const std::uint64_t v = config.v_head_dim;
    const std::uint64_t head = place.row / (nope + v);
    const std::uint64_t in = place.row % (nope + v);
    const bool is_key = in < nope;
    const std::string split = before + std::string(is_key ? kKeys : kValues);
    if (!weights.Has(split)) return std::nullopt;
    if (is_key) {
      return Place{split, head * nope + in, nope - in, config.num_attention_heads * nope};
    }
    return Place{split, head * v + in - nope, nope + v - in, config.num_attention_heads * v};
  }
  // An MTP layer without copies uses the main model's.
  const char* main = nullptr;
  if (name.ends_with(".embed_tokens.weight")) main = kEmbedding;
  if (name.ends_with(".shared_head.head.weight")) {
    main = config.tie_word_embeddings ? kEmbedding : kHead;
  }
  if (main == nullptr || !weights.Has(main)) return std::nullopt;
  return Place{main, place.row, kAllRows, place.all_rows};
}

}  // namespace

std::optional<std::uint64_t> LayerOfModule(const std::string& module) {
  return LayerOf(module + ".", "");
}

ModuleRows ModuleOf(const ModelWeights& weights, const ModelConfig& config, const WeightRows& rows,
                    bool is_product) {
  const Place place = CommonPlace(weights, config, rows, rows.first_row, is_product);
  ModuleRows found;
  found.module = place.name.ends_with(kWeight) ? Without(place.name, kWeight) : place.name;
  found.layer = LayerOfModule(found.module);
  found.rows = {rows.tensor, 0, RowsOf(weights, rows.tensor), rows.cols};
  // One expert of those in a tensor.
  if (ExpertPartOf(place.name) && NameOf(weights, rows.tensor) != place.name) {
    found.rows.first_row = rows.first_row - place.row;
    found.rows.rows = place.all_rows;
  }
  return found;
}

RowMap::Result RowMap::Find(const WeightRows& rows, bool is_product,
                            std::vector<OtherRows>& found) const {
  found.clear();
  for (std::uint64_t done = 0; done < rows.rows;) {
    const Place common =
        CommonPlace(a_.weights, a_.config, rows, rows.first_row + done, is_product);
    const std::optional<Place> place = PlaceIn(b_.weights, b_.config, common);
    if (!place) return Result::kMissing;
    const std::uint32_t tensor = b_.weights.Find(place->name);
    const formats::Shape& shape = b_.weights.catalog().tensors()[tensor].shape;
    if (shape.empty() || shape.back() != rows.cols ||
        RowsOf(b_.weights, tensor) != place->all_rows) {
      return Result::kShape;
    }
    const std::uint64_t count = std::min({rows.rows - done, common.run, place->run});
    found.push_back({done, {tensor, place->row, count, rows.cols}});
    done += count;
  }
  return Result::kFound;
}

}  // namespace dsv3::convert
