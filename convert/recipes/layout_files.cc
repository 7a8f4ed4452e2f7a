#include "convert/recipes/layout_files.h"

#include <map>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/deepseek_names.h"
#include "convert/open/assembled_model.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

constexpr char kMap[] = "param_name_map.json";

// MindSpore's own writer says that its files are not PyTorch's.
const FileMetadata& MsMetadata() {
  static const FileMetadata metadata = {{"format", "ms"}};
  return metadata;
}

// Of the training layouts: a file for each layer; the first one also has the embedding, the last
// one the MTP layers' own tensors, the last norm and the head.
std::string TrainingFile(const LaidOutTensor& tensor, std::uint64_t layers) {
  std::uint64_t file = layers;
  if (tensor.layer) {
    file = *tensor.layer + 1;
  } else if (tensor.name.find("embedding") != std::string::npos) {
    file = 1;
  }
  return fmt::format("ms-model-{:05}-of-{:05}.safetensors", file, layers);
}

// Of the inference layout: a file for each layer, one for each stack of experts, and one for the
// rest.
std::string InferenceFile(const LaidOutTensor& tensor) {
  constexpr std::string_view kExperts = ".routed_experts.ffn.";
  if (!tensor.layer) return "model.safetensors";
  const std::size_t experts = tensor.name.find(kExperts);
  if (experts == std::string::npos) return fmt::format("model_layer_{}.safetensors", *tensor.layer);
  const std::string_view stack = std::string_view(tensor.name).substr(experts + kExperts.size(), 2);
  return fmt::format("model_layer_{}_routed_experts_{}.safetensors", *tensor.layer, stack);
}

// The flat map from a tensor's name to its file, as json.dumps writes it.
std::string MapText(const std::vector<std::pair<std::string, std::string>>& files, int indent) {
  formats::JsonWriter json(indent);
  json.BeginObject();
  for (const auto& [tensor, file] : files) {
    json.String(tensor, file);
  }
  json.EndObject();
  return json.Take();
}

}  // namespace

void PlanLayoutFiles(const WritableLayout& layout, const ModelConfig& config,
                     std::vector<LaidOutTensor> tensors, std::uint64_t shard_bytes, Plan& plan) {
  if (!layout.name.starts_with("mindformers-")) {
    NamedExpressions all;
    for (LaidOutTensor& tensor : tensors) {
      all.emplace_back(std::move(tensor.name), std::move(tensor.expression));
    }
    if (layout.name == "deepseek") {
      plan.files.push_back(PlanFile(DeepseekFileName(0, 1), std::move(all), {}));
      return;
    }
    plan.files = PlanShards(std::move(all), shard_bytes);
    if (plan.files.size() > 1) plan.index = PlanIndex(plan);
    return;
  }
  const bool inference = layout.name == "mindformers-infer";
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  std::map<std::string, NamedExpressions> files;
  std::vector<std::pair<std::string, std::string>> listed;
  for (LaidOutTensor& tensor : tensors) {
    const std::string file = inference ? InferenceFile(tensor) : TrainingFile(tensor, layers);
    listed.emplace_back(tensor.name, file);
    files[file].emplace_back(std::move(tensor.name), std::move(tensor.expression));
  }
  for (auto& [name, held] : files) {
    plan.files.push_back(PlanFile(name, std::move(held), MsMetadata()));
  }
  plan.side_files.push_back({kMap, {}, MapText(listed, inference ? 4 : 2)});
}

}  // namespace dsv3::convert
