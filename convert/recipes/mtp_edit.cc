#include "convert/recipes/mtp_edit.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/model/config_edit.h"
#include "convert/model/layer_kinds.h"
#include "convert/recipes/mtp_names.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

constexpr char kNextNFile[] = "nextn_layer_parameters.safetensors";
constexpr char kNextNArchitecture[] = "DeepseekV3ForCausalLMNextN";

std::uint64_t CountLayers(const ModelEdit& edit, const MtpNames& names, const ModelConfig& config) {
  std::uint64_t layers = 0;
  for (;; ++layers) {
    const std::string name = names.LayerName(config.num_hidden_layers + layers);
    if (std::none_of(edit.tensors.begin(), edit.tensors.end(),
                     [&](const EditedTensor& tensor) { return tensor.name.starts_with(name); })) {
      return layers;
    }
  }
}

void Warn(std::string kind, std::string message, ModelEdit& edit) {
  edit.warnings.push_back(
      {formats::Severity::kWarning, std::move(kind), kConfigName, "", std::move(message)});
}

// Has the member, a list with an entry for each layer, say what the one layer is.
void SetOnlyLayer(const ModelConfig& config, std::string_view field, std::string_view word,
                  std::string& text) {
  const std::string member = config.prefix + std::string(field);
  const std::optional<std::string> now = formats::JsonMember(text, member, kConfigName);
  if (now && now->starts_with('['))
    text = SetConfigMember(text, member, fmt::format("[\"{}\"]", word));
}

// Has the lists of modules in quantization_config name them by the layers' new names.
void RenameListedModules(const ModelConfig& config, const std::string& from, const std::string& to,
                         std::string& text) {
  EditModuleLists(
      config,
      [&](std::vector<std::string>& modules) {
        for (std::string& module : modules) {
          if (module.starts_with(from)) module.replace(0, from.size(), to);
        }
      },
      text);
}

}  // namespace

void DropMtp(const OpenedModel& model, ModelEdit& edit) {
  const MtpNames names(model.catalog, model.config);
  std::vector<EditedTensor> kept;
  kept.reserve(edit.tensors.size());
  for (EditedTensor& tensor : edit.tensors) {
    if (names.Holds(tensor.name)) {
      edit.dropped.push_back(tensor.name);
    } else {
      kept.push_back(std::move(tensor));
    }
  }
  edit.tensors = std::move(kept);
  if (edit.dropped.empty()) {
    Warn("no-mtp", "the model has no MTP layer, so --mtp drop leaves nothing out", edit);
  }
  SetMtpLayers(model.config, 0, edit.config);
}

void KeepMtp(const OpenedModel& model, ModelEdit& edit) {
  if (model.missing_mtp_layers == 0) return;
  SetMtpLayers(model.config, 0, edit.config);
  Warn("no-mtp",
       fmt::format("{} is {} in {}, and no file holds a tensor of an MTP layer; the output's "
                   "config says 0 (--mtp graft --mtp-from DIR takes the layers from another "
                   "checkpoint)",
                   kMtpField, model.missing_mtp_layers, kConfigName),
       edit);
}

void ExtractMtp(const OpenedModel& model, ModelEdit& edit) {
  const ModelConfig& config = model.config;
  const MtpNames names(model.catalog, config);
  const auto refuse = [&](const std::string& problem) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {}", formats::ShownPath(model.directory), problem),
                {model.directory.string(), ""});
  };
  if (!names.HoldsAny(edit))
    refuse("the model has no MTP layer, so --mtp extract has nothing to take");
  const std::uint64_t layers = CountLayers(edit, names, config);
  if (layers == 0) {
    refuse(
        "the MTP layers are those of DeepSeek-V4 (\"mtp.\"), which engines load from the main "
        "model; --mtp extract is for layers of DeepSeek-V3");
  }
  if (layers > 1) {
    refuse(
        fmt::format("the model has {} MTP layers, and the form that --mtp extract writes holds "
                    "one; engines load the others from the main model",
                    layers));
  }
  const std::string from = names.LayerName(config.num_hidden_layers);
  const std::string to = names.LayerName(0);
  std::vector<EditedTensor> kept;
  for (EditedTensor& tensor : edit.tensors) {
    if (!names.Holds(tensor.name)) continue;
    const std::string rest = tensor.name.substr(from.size());
    if (rest == kSharedEmbedding || rest == kSharedHead) {
      const std::uint32_t main = names.MainOf(model.catalog, rest);
      const std::uint32_t copy = model.catalog.Find(tensor.name);
      if (main != Catalog::kNone && copy != Catalog::kNone) edit.copies.push_back({copy, main});
      continue;
    }
    tensor.name = to + rest;
    tensor.file = kNextNFile;
    kept.push_back(std::move(tensor));
  }
  edit.tensors = std::move(kept);
  edit.needs_index = true;
  edit.names_files = true;
  SetConfigNumber(config, "num_hidden_layers", 1, edit.config);
  edit.config =
      SetConfigMember(edit.config, "architectures", fmt::format("[\"{}\"]", kNextNArchitecture));
  const bool moe = IsMoeLayer(config, config.num_hidden_layers);
  SetOnlyLayer(config, "mlp_layer_types", moe ? "sparse" : "dense", edit.config);
  SetOnlyLayer(config, "indexer_types", "full", edit.config);
  RenameListedModules(config, from, to, edit.config);
}

}  // namespace dsv3::convert
