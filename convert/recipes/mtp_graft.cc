#include "convert/recipes/mtp_graft.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/model/config_edit.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/cast_expression.h"
#include "convert/recipes/mtp_names.h"
#include "convert/recipes/weight_dtypes.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// What --mtp graft takes from the other checkpoint.
class Graft {
 public:
  Graft(std::filesystem::path directory, const OpenedModel& model)
      : directory_(std::move(directory)), model_(model) {}

  void Open(const std::filesystem::path& base, const std::filesystem::path& output) {
    const std::string given = formats::ShownPath(directory_);
    try {
      other_ = OpenModel(directory_, {.mtp_may_be_missing = true, .base = base});
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("--mtp-from {}: {}", given, error.message()),
                  error.place());
    }
    RequireApart(other_.directory, output);
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
  void AddTo(OpenedModel& model, TrainDtype dtype, ModelEdit& edit) {
    const MtpNames own(model.catalog, model.config);
    const Bf16Names bf16_names(other_);
    const std::uint64_t layers = other_.config.num_nextn_predict_layers;
    const std::uint32_t first = model.catalog.tensors_end();
    const auto count = static_cast<std::uint32_t>(other_.catalog.tensors().size());
    Catalog other = std::move(other_.catalog);
    const std::size_t kept = edit.tensors.size();
    std::vector<std::string> renamed(count);
    std::vector<bool> is_cast(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::string& name = other.tensors()[i].name;
      is_cast[i] = dtype == TrainDtype::kBF16 && bf16_names.Hold(name) &&
                   IsWiderFloat(other.tensors()[i].dtype);
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
      if (is_cast[i]) {
        edit.cast.push_back(renamed[i]);
        edit.tensors.push_back({std::move(renamed[i]), file, CastToBF16(model.catalog, first + i)});
      } else {
        edit.tensors.push_back(
            {std::move(renamed[i]), file, Copy(model.catalog, first + i), first + i});
      }
    }
    edit.grafted_from = other_.assembled;
    SetMtpLayers(model.config, layers, edit.config);
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
    if (model_.config.v4 || other_.config.v4) {
      Refuse("the MTP layers of DeepSeek-V4, which are called mtp.0 and on, cannot be taken over");
    }
    ModelConfig expected = model_.config;
    expected.num_nextn_predict_layers = other_.config.num_nextn_predict_layers;
    std::set<std::string> modules;
    ForEachExpected(expected, "", [&](const ExpectedTensorView& tensor) {
      if (!tensor.mtp) return;
      const std::string own = fmt::format("model.layers.{}.", tensor.layer);
      const std::string name = names_->LayerName(other_.config.num_hidden_layers + tensor.layer -
                                                 model_.config.num_hidden_layers) +
                               std::string(tensor.name.substr(own.size()));
      modules.insert(name.substr(0, name.rfind('.')));
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
    RequireNoOthers(modules);
  }

  // Parameters of modules that the model does not have, such as those of an indexer, would be of
  // another model. What lies beside a weight that is expected is of its form.
  void RequireNoOthers(const std::set<std::string>& modules) const {
    for (std::uint64_t k = 0; k < other_.config.num_nextn_predict_layers; ++k) {
      const std::string layer = names_->LayerName(other_.config.num_hidden_layers + k);
      for (const CatalogTensor& tensor : other_.catalog.tensors()) {
        const std::string_view name = tensor.name;
        if (!name.starts_with(layer) || !(name.ends_with(".weight") || name.ends_with(".bias"))) {
          continue;
        }
        // Copies of the main model's, which some releases have and others do not.
        const std::string_view rest = name.substr(layer.size());
        if (rest == "embed_tokens.weight" || rest == "shared_head.head.weight") continue;
        if (modules.contains(tensor.name.substr(0, name.rfind('.')))) continue;
        Refuse(fmt::format("tensor {} is of a module that the model's config does not predict in "
                           "an MTP layer; the two are of different models",
                           QuoteForMessage(tensor.name)),
               tensor.name);
      }
    }
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

void GraftMtp(const TrainToInferOptions& options, const std::filesystem::path& base,
              const std::filesystem::path& output, OpenedModel& model, ModelEdit& edit) {
  const MtpNames names(model.catalog, model.config);
  if (names.HoldsAny(edit)) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the model has MTP layers, so --mtp graft would put others over "
                            "them; leave them out first: dsv3-convert train-to-infer --mtp drop",
                            formats::ShownPath(model.directory)),
                {model.directory.string(), ""});
  }
  Graft graft(options.mtp_from, model);
  graft.Open(base, output);
  graft.AddTo(model, options.dtype, edit);
}

}  // namespace dsv3::convert
