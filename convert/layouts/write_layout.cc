#include "convert/layouts/write_layout.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/layout_blocks.h"
#include "convert/layouts/layout_names.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// A tensor of the layout while its pieces are collected.
struct Target {
  std::string name;
  LayoutBlocks blocks;
  std::vector<std::pair<std::uint32_t, LayoutPlace>> sources;
};

ComposedTensor Composed(const Target& target, const ModelConfig& config,
                        const std::vector<StackTensor>& model) {
  if (!target.blocks.IsFull()) {
    const std::string& first = model[target.sources.front().first].name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("tensor {}: it lies in {}, together with tensors of other layers or "
                            "experts, but some of these are missing; the checkpoint is incomplete",
                            QuoteForMessage(first), QuoteForMessage(target.name)),
                {"", first});
  }
  ComposedTensor composed{target.name, target.blocks.shape(), target.blocks.matrix(), {}};
  for (const auto& [source, place] : target.sources) {
    const MatrixShape matrix = ModelMatrix(place, model[source].shape);
    for (const LayoutLink& link : target.blocks.Links(place, config, model[source].shape)) {
      composed.parts.push_back({source, matrix, link.model, link.transposed, link.stack.row_begin,
                                link.stack.col_begin});
    }
  }
  std::sort(composed.parts.begin(), composed.parts.end(),
            [](const TensorPart& a, const TensorPart& b) {
              return std::pair(a.row, a.col) < std::pair(b.row, b.col);
            });
  return composed;
}

}  // namespace

std::vector<ComposedTensor> WriteLayout(const LayoutTable& table, const ModelConfig& config,
                                        const std::vector<StackTensor>& model,
                                        const VariantsOf& variants_of) {
  const LayoutNames names(table, config);
  std::vector<Target> targets;
  std::unordered_map<std::string, std::size_t> positions;  // in targets
  for (std::uint32_t source = 0; source < model.size(); ++source) {
    const StackTensor& tensor = model[source];
    std::vector<LayoutPlaces> places = names.PlacesOf(tensor.name);
    const std::vector<std::string_view> variants = variants_of(tensor);
    const auto found = std::find_if(places.begin(), places.end(),
                                    [&](const LayoutPlaces& of) { return of.IsOf(variants); });
    if (found == places.end()) {
      if (names.CopiedFrom(tensor.name)) continue;
      throw Error(ErrorCode::kBadInput,
                  fmt::format("tensor {}: no name for it is known in {}, so this model cannot be "
                              "written in that layout",
                              QuoteForMessage(tensor.name), table.title),
                  {"", tensor.name});
    }
    if (names.KeepsExpertApart(tensor.name, *found, variants)) {
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("tensor {}: the layout has one tensor for all experts of a layer, and this "
                      "expert is not one of those that config.json counts (n_routed_experts {}), "
                      "or its name is not one of DeepSeek-V3's; the model cannot be written in "
                      "that layout",
                      QuoteForMessage(tensor.name), config.n_routed_experts),
          {"", tensor.name});
    }
    for (LayoutPlace& place : found->pieces) {
      const auto [position, is_new] = positions.emplace(place.name, targets.size());
      if (is_new) targets.push_back({place.name, {}, {}});
      Target& target = targets[position->second];
      target.blocks.Add(place, config, tensor.shape);
      target.sources.emplace_back(source, std::move(place));
    }
  }
  std::vector<ComposedTensor> composed;
  composed.reserve(targets.size());
  for (const Target& target : targets) composed.push_back(Composed(target, config, model));
  return composed;
}

std::vector<ComposedTensor> WriteLayout(const LayoutTable& table, const ModelConfig& config,
                                        const std::vector<StackTensor>& model,
                                        const std::vector<std::string_view>& variants) {
  return WriteLayout(table, config, model, [&](const StackTensor&) { return variants; });
}

}  // namespace dsv3::convert
