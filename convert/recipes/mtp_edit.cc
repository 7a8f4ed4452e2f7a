#include "convert/recipes/mtp_edit.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/model/config_edit.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/layer_kinds.h"
#include "convert/model/scaled_weights.h"
#include "convert/parallel/slicing.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

constexpr std::string_view kField = "num_nextn_predict_layers";
// DeepSeek-V4 has its MTP layers outside the others.
constexpr std::string_view kV4Prefix = "mtp.";
constexpr char kNextNFile[] = "nextn_layer_parameters.safetensors";
constexpr char kNextNArchitecture[] = "DeepseekV3ForCausalLMNextN";
// What engines share with the main model.
constexpr std::string_view kSharedEmbedding = "embed_tokens.weight";
constexpr std::string_view kSharedHead = "shared_head.head.weight";

void RequireNumberOfLayers(const ModelConfig& config) {
  if (config.num_hidden_layers > 0) return;
  const std::string problem =
      config.is_nextn ? "the model is the MTP layer of another one alone (its architecture is "
                        "NextN), so that it has no MTP layers of its own; name the main model"
                      : "num_hidden_layers is missing, so that it is not known which layers are "
                        "MTP layers; correct config.json";
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", kConfigName, problem), {kConfigName, ""});
}

// Which tensors belong to MTP layers.
class MtpNames {
 public:
  MtpNames(const Catalog& catalog, const ModelConfig& config)
      : config_(config), prefix_(FindNamePrefix(catalog)) {
    RequireNumberOfLayers(config);
  }

  bool Holds(std::string_view name) const {
    return name.starts_with(kV4Prefix) || PlaceOf(name, prefix_, config_).mtp;
  }
  // The tensor of the main model that an MTP layer's tensor is a copy of, by what is behind the
  // layer's name; kNone where it is none.
  std::uint32_t MainOf(const Catalog& catalog, std::string_view rest) const {
    std::uint32_t main = Catalog::kNone;
    if (rest == kSharedHead) main = catalog.Find(prefix_ + "lm_head.weight");
    if (main == Catalog::kNone && (rest == kSharedHead || rest == kSharedEmbedding)) {
      main = catalog.Find(prefix_ + "model.embed_tokens.weight");
    }
    return main;
  }
  // The same of a catalog's appended checkpoint.
  std::uint32_t MainOfAppended(const Catalog& catalog, std::string_view rest) const {
    std::uint32_t main = Catalog::kNone;
    if (rest == kSharedHead) main = catalog.FindAppended(prefix_ + "lm_head.weight");
    if (main == Catalog::kNone) {
      main = catalog.FindAppended(prefix_ + "model.embed_tokens.weight");
    }
    return main;
  }
  // "model.layers.61."
  std::string LayerName(std::uint64_t layer) const {
    return fmt::format("{}model.layers.{}.", prefix_, layer);
  }

 private:
  const ModelConfig& config_;
  std::string prefix_;  // owned, since catalogs grow
};

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

bool HasMtp(const ModelEdit& edit, const MtpNames& names) {
  return std::any_of(edit.tensors.begin(), edit.tensors.end(),
                     [&](const EditedTensor& tensor) { return names.Holds(tensor.name); });
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
  SetConfigNumber(model.config, kField, 0, edit.config);
}

void KeepMtp(const OpenedModel& model, ModelEdit& edit) {
  if (model.missing_mtp_layers == 0) return;
  SetConfigNumber(model.config, kField, 0, edit.config);
  Warn("no-mtp",
       fmt::format("{} is {} in {}, and no file holds a tensor of an MTP layer; the output's "
                   "config says 0 (--mtp graft --mtp-from DIR takes the layers from another "
                   "checkpoint)",
                   kField, model.missing_mtp_layers, kConfigName),
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
  if (!HasMtp(edit, names))
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

namespace {

// What --mtp graft takes from the other checkpoint.
class Graft {
 public:
  Graft(std::filesystem::path directory, const OpenedModel& model)
      : directory_(std::move(directory)), model_(model) {}

  void Open(const std::filesystem::path& output) {
    const std::string given = formats::ShownPath(directory_);
    try {
      other_ = OpenModel(directory_);
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("--mtp-from {}: {}", given, error.message()),
                  error.place());
    }
    RequireApart(other_.directory, output);
    if (other_.ranks) {
      Refuse("it holds rank shards; join them first: dsv3-reshard merge");
    }
    if (other_.assembled) {
      Refuse(
          "it is a training checkpoint; make a Hugging Face one of it first: dsv3-convert "
          "train-to-infer");
    }
    names_.emplace(other_.catalog, other_.config);
    if (other_.config.num_nextn_predict_layers == 0) {
      Refuse(
          "it has no MTP layer; name a checkpoint that has one, such as the model that the "
          "training began with");
    }
    RequireSameShapes();
    RequireSameForm();
  }

  // Adds the tensors, after the other catalog was appended to the model's.
  void AddTo(OpenedModel& model, ModelEdit& edit) {
    const MtpNames own(model.catalog, model.config);
    const std::uint64_t layers = other_.config.num_nextn_predict_layers;
    const std::uint32_t first = model.catalog.tensors_end();
    const auto count = static_cast<std::uint32_t>(other_.catalog.tensors().size());
    Catalog other = std::move(other_.catalog);
    const std::size_t kept = edit.tensors.size();
    std::vector<std::string> renamed(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string& name = other.tensors()[i].name;
      for (std::uint64_t k = 0; k < layers && renamed[i].empty(); ++k) {
        const std::string from = names_->LayerName(other_.config.num_hidden_layers + k);
        if (!name.starts_with(from)) continue;
        renamed[i] = own.LayerName(model.config.num_hidden_layers + k) + name.substr(from.size());
      }
    }
    model.catalog.Append(std::move(other), kMtpFrom);
    const std::string file = FileFor(edit);
    for (std::uint32_t i = 0; i < count; ++i) {
      if (renamed[i].empty()) continue;
      edit.grafted.push_back(renamed[i]);
      if (TakeFromMain(own, model, i, first, file, renamed[i], kept, edit)) continue;
      edit.tensors.push_back(
          {std::move(renamed[i]), file, Copy(model.catalog, first + i), first + i});
    }
    SetConfigNumber(model.config, kField, layers, edit.config);
    AddListedModules(own, model.config, layers, edit.config);
  }

 private:
  // The embedding and the head of an MTP layer are those of the main model: where that was trained
  // further, the other checkpoint's copies are of what it was before. Adds the model's own tensor;
  // false for any other tensor. `other` is its position in the other catalog, which begins at
  // `first` of the model's; `kept` tensors of `edit` are the model's.
  bool TakeFromMain(const MtpNames& own, const OpenedModel& model, std::uint32_t other,
                    std::uint32_t first, const std::string& file, const std::string& name,
                    std::size_t kept, ModelEdit& edit) const {
    const std::string_view rest = RestOf(name, own, model.config);
    const std::uint32_t main = own.MainOf(model.catalog, rest);
    if (main == Catalog::kNone) return false;
    const std::string& main_name = model.catalog.tensors()[main].name;
    const auto main_tensor =
        std::find_if(edit.tensors.begin(), edit.tensors.begin() + static_cast<std::ptrdiff_t>(kept),
                     [&](const EditedTensor& tensor) { return tensor.name == main_name; });
    edit.shared.push_back(name);
    const std::uint32_t theirs = names_->MainOfAppended(model.catalog, rest);
    if (theirs != Catalog::kNone) edit.left_copies.push_back({first + other, theirs});
    EditedTensor copy = *main_tensor;
    copy.name = name;
    copy.file = file;
    edit.tensors.push_back(std::move(copy));
    return true;
  }

  // What is behind "model.layers.61." in the name of an MTP layer's tensor.
  static std::string_view RestOf(std::string_view name, const MtpNames& own,
                                 const ModelConfig& config) {
    const std::string layer = own.LayerName(config.num_hidden_layers);
    const std::size_t number = layer.find_last_of('.', layer.size() - 2) + 1;
    return name.substr(name.find('.', number) + 1);
  }

  // Modules of the layers that the other config lists as not quantised.
  void AddListedModules(const MtpNames& own, const ModelConfig& config, std::uint64_t layers,
                        std::string& text) const {
    if (!other_.config.quantization) return;
    std::vector<std::string> added;
    for (const std::string& module : other_.config.quantization->modules_to_not_convert) {
      for (std::uint64_t k = 0; k < layers; ++k) {
        const std::string from = names_->LayerName(other_.config.num_hidden_layers + k);
        if (!module.starts_with(from)) continue;
        added.push_back(own.LayerName(config.num_hidden_layers + k) + module.substr(from.size()));
      }
    }
    EditModuleLists(
        config,
        [&](std::vector<std::string>& modules) {
          for (const std::string& module : added) {
            if (std::find(modules.begin(), modules.end(), module) == modules.end()) {
              modules.push_back(module);
            }
          }
        },
        text);
  }

  [[noreturn]] void Refuse(const std::string& problem, const std::string& tensor = {}) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("--mtp-from {}: {}", formats::ShownPath(directory_), problem),
                {directory_.string(), tensor});
  }

  // The layers must be what the model's own config predicts of its MTP layers.
  void RequireSameShapes() const {
    if (!model_.config.known || !other_.config.known) {
      const ModelConfig& unknown = model_.config.known ? other_.config : model_.config;
      Refuse(
          fmt::format("the model_type {} is not one whose tensors are known here, so the shapes "
                      "of the MTP layers cannot be compared with the model's",
                      QuoteForMessage(unknown.model_type)));
    }
    ModelConfig expected = model_.config;
    expected.num_nextn_predict_layers = other_.config.num_nextn_predict_layers;
    ForEachExpected(expected, "", [&](const ExpectedTensorView& tensor) {
      if (!tensor.mtp) return;
      const std::string own = fmt::format("model.layers.{}.", tensor.layer);
      const std::string name = names_->LayerName(other_.config.num_hidden_layers + tensor.layer -
                                                 model_.config.num_hidden_layers) +
                               std::string(tensor.name.substr(own.size()));
      const std::uint32_t found = other_.catalog.Find(name);
      const formats::Shape shape(tensor.shape.begin(), tensor.shape.end());
      if (found == Catalog::kNone) {
        if (FindCodes(other_.catalog, other_.config, name)) return;
        Refuse(fmt::format("it has no tensor {}, which the model's config predicts with shape {}; "
                           "the two are of different models",
                           QuoteForMessage(name), formats::ShapeToString(shape)),
               name);
      }
      if (other_.catalog.tensors()[found].shape == shape) return;
      if (FindCodes(other_.catalog, other_.config, name)) return;
      Refuse(fmt::format("tensor {} has shape {}, but the model's config predicts {}; the two are "
                         "of different models",
                         QuoteForMessage(name),
                         formats::ShapeToString(other_.catalog.tensors()[found].shape),
                         formats::ShapeToString(shape)),
             name);
    });
  }

  // How weights are stored: FP8 of some block, or another form by its name; empty for plain floats.
  static std::string FormOf(const OpenedModel& model) {
    const ScaledWeights found = FindScaledWeights(model.catalog, model.config);
    if (!found.forms.empty()) return found.forms.front().name;
    if (found.pairs.empty()) return "";
    const ScaledWeight& first = found.pairs.front();
    const std::string name = model.catalog.tensors()[first.scale].name;
    return fmt::format("FP8 with {} {} for {} × {}",
                       formats::DtypeName(model.catalog.tensors()[first.scale].dtype),
                       name.substr(name.rfind('.') + 1), first.block.rows, first.block.cols);
  }

  void RequireSameForm() const {
    const std::string own = FormOf(model_);
    const std::string theirs = FormOf(other_);
    if (own == theirs) return;
    const auto named = [](const std::string& form) { return form.empty() ? "BF16" : form; };
    const std::string other = formats::ShownPath(directory_);
    std::string advice = "take the layers from a checkpoint in the model's form";
    if (own.empty() && theirs.starts_with("FP8")) {
      advice = fmt::format("convert it first: dsv3-convert fp8-to-bf16 {} DIR, then --mtp-from DIR",
                           other);
    } else if (theirs.empty() && own.starts_with("FP8")) {
      advice = fmt::format("convert it first: dsv3-convert bf16-to-fp8 {} DIR, then --mtp-from DIR",
                           other);
    }
    Refuse(
        fmt::format("its weights are {}, those of the model are {}, and one config describes "
                    "all of them; {}",
                    named(theirs), named(own), advice));
  }

  // A shard of their own; where the model is one file, which readers find without an index, that
  // file.
  static std::string FileFor(const ModelEdit& edit) {
    if (!edit.needs_index) return edit.tensors.front().file;
    const auto taken = [&](const std::string& name) {
      return std::any_of(edit.tensors.begin(), edit.tensors.end(),
                         [&](const EditedTensor& tensor) { return tensor.file == name; });
    };
    std::string name = "model-mtp.safetensors";
    for (int i = 2; taken(name); ++i) name = fmt::format("model-mtp-{}.safetensors", i);
    return name;
  }

  const std::filesystem::path directory_;  // as it was given
  const OpenedModel& model_;
  OpenedModel other_;
  std::optional<MtpNames> names_;  // of other_
};

}  // namespace

void GraftMtp(const std::filesystem::path& from, const std::filesystem::path& output,
              OpenedModel& model, ModelEdit& edit) {
  const MtpNames names(model.catalog, model.config);
  if (HasMtp(edit, names)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the model has MTP layers, so --mtp graft would put others over "
                            "them; leave them out first: dsv3-convert train-to-infer --mtp drop",
                            formats::ShownPath(model.directory)),
                {model.directory.string(), ""});
  }
  Graft graft(from, model);
  graft.Open(output);
  graft.AddTo(model, edit);
}

}  // namespace dsv3::convert
