#include "convert/plan/plan.h"

#include <algorithm>
#include <span>
#include <string_view>
#include <unordered_map>

#include "formats/hash/xxh3.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

// transformers refuses a PyTorch checkpoint whose files do not say so.
const formats::SafetensorsMetadata& PtMetadata() {
  static const formats::SafetensorsMetadata metadata = {{"format", "pt"}};
  return metadata;
}

}  // namespace

std::string FileHeader(const PlannedFile& file) {
  std::vector<formats::SafetensorsTensor> entries;
  entries.reserve(file.tensors.size());
  for (const PlannedTensor& tensor : file.tensors) entries.push_back(tensor.entry);
  return formats::SerializeSafetensorsHeader(entries, PtMetadata());
}

PlannedFile PlanFile(std::string name, std::vector<std::pair<std::string, ExpressionPtr>> tensors) {
  std::vector<formats::SafetensorsTensor> entries;
  std::unordered_map<std::string_view, ExpressionPtr> expressions;
  entries.reserve(tensors.size());
  expressions.reserve(tensors.size());
  for (auto& tensor : tensors) {
    entries.push_back({tensor.first, tensor.second->dtype(), tensor.second->shape(), 0, 0});
    expressions.emplace(tensor.first, std::move(tensor.second));
  }
  formats::LayOutTensors(entries);

  PlannedFile file;
  file.name = std::move(name);
  file.tensors.reserve(entries.size());
  for (formats::SafetensorsTensor& entry : entries) {
    ExpressionPtr& expression = expressions.at(entry.name);
    file.tensors.push_back({std::move(entry), std::move(expression)});
  }
  const std::string header = FileHeader(file);
  file.data_offset = header.size();
  file.bytes = header.size() + (file.tensors.empty() ? 0 : file.tensors.back().entry.end);
  file.header_digest = formats::Xxh3Hex(std::as_bytes(std::span(header)));
  return file;
}

std::string PlanIndex(const Plan& plan) {
  formats::ShardIndex index;
  index.total_size = plan.total_size;
  for (std::uint32_t i = 0; i < plan.files.size(); ++i) {
    index.files.push_back(plan.files[i].name);
    for (const PlannedTensor& tensor : plan.files[i].tensors) {
      index.weight_map.emplace_back(tensor.entry.name, i);
    }
  }
  std::sort(index.weight_map.begin(), index.weight_map.end());
  return formats::SerializeShardIndex(index);
}

std::string PlanFingerprint(const Plan& plan, const Catalog& catalog) {
  formats::Xxh3 hash;
  const auto add = [&hash](std::string_view text) {
    hash.Update(std::as_bytes(std::span(text)));
    hash.Update(std::as_bytes(std::span("\n", 1)));
  };
  add(plan.recipe);
  for (const PlanOption& option : plan.options) {
    add(option.name);
    add(option.json);
  }
  for (const PlannedFile& file : plan.files) {
    add(file.name);
    add(file.header_digest);
    for (const PlannedTensor& tensor : file.tensors) {
      add(tensor.expression->rule());
      add(catalog.tensors()[tensor.expression->streamed_source()].name);
      for (const std::uint32_t side : tensor.expression->side_sources()) {
        add(catalog.tensors()[side].name);
      }
    }
  }
  for (const PlannedSideFile& side : plan.side_files) {
    add(side.name);
    add(side.content);
  }
  return hash.Hex();
}

}  // namespace dsv3::convert
