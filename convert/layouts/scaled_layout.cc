#include "convert/layouts/scaled_layout.h"

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/layouts/layout_names.h"
#include "convert/layouts/read_layout.h"
#include "convert/layouts/write_layout.h"
#include "convert/model/scale_names.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

std::optional<quant::BlockShape> BlockOf(const ModelConfig& config) {
  return config.quantization ? config.quantization->weight_block_size : std::nullopt;
}

// Throws if the scales of this weight share a block with those of another, where the layout puts
// them one below the other in the tensor `name`.
void RequireApart(const LayoutPlaces& places, const quant::BlockShape& block,
                  const StackTensor& weight, const std::string& name) {
  if (places.pieces.front().rule->rows == RuleRows::kAll || weight.shape[0] % block.rows == 0) {
    return;
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {}: it holds the scales of two weights of {} rows each, no "
                          "multiple of the {} rows of a scale block, so one block has rows of "
                          "both; convert with fp8-to-bf16 first",
                          QuoteForMessage(name), weight.shape[0], block.rows),
              {"", name});
}

}  // namespace

LayoutReading ReadScaledLayout(const LayoutTable& table, const ModelConfig& config,
                               const std::vector<StackTensor>& stack) {
  const std::optional<quant::BlockShape> block = BlockOf(config);
  if (!block) return ReadLayout(table, config, stack);
  const LayoutNames names(table, config);
  std::unordered_set<std::string_view> held;
  for (const StackTensor& tensor : stack) held.insert(tensor.name);
  std::vector<StackTensor> model;
  for (StackTensor& predicted : ModelTensorsOf(config)) {
    model.push_back(std::move(predicted));
    const StackTensor weight = model.back();
    if (weight.shape.size() != 2) continue;
    const std::string scale = ScaleNameOf(weight.name, ScaleNaming::kScaleInv);
    for (const LayoutPlaces& places : names.PlacesOf(scale)) {
      const std::string& name = places.pieces.front().name;
      if (held.count(name) == 0) continue;
      RequireApart(places, *block, weight, name);
      model.push_back(
          {scale, {CeilDiv(weight.shape[0], block->rows), CeilDiv(weight.shape[1], block->cols)}});
      break;
    }
  }
  return ReadLayout(table, config, model, stack);
}

std::vector<ComposedTensor> WriteScaledLayout(const LayoutTable& table, const ModelConfig& config,
                                              const std::vector<StackTensor>& model,
                                              const std::vector<std::string_view>& variants) {
  if (const std::optional<quant::BlockShape> block = BlockOf(config)) {
    const LayoutNames names(table, config);
    std::unordered_set<std::string_view> held;
    for (const StackTensor& tensor : model) held.insert(tensor.name);
    for (const StackTensor& weight : model) {
      const std::string scale = ScaleNameOf(weight.name, ScaleNaming::kScaleInv);
      if (weight.shape.size() != 2 || held.count(scale) == 0) continue;
      const std::vector<LayoutPlaces> all = names.PlacesOf(scale);
      const auto places = std::find_if(all.begin(), all.end(),
                                       [&](const LayoutPlaces& of) { return of.IsOf(variants); });
      if (places != all.end()) RequireApart(*places, *block, weight, places->pieces.front().name);
    }
  }
  return WriteLayout(table, config, model, variants);
}

}  // namespace dsv3::convert
