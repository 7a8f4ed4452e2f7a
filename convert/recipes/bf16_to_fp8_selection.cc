#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/glob.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/scale_names.h"
#include "convert/model/scaled_weights.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::string_view kWeightSuffix = ".weight";

[[noreturn]] void Fail(const Catalog& catalog, const CatalogTensor& tensor, std::string problem) {
  const std::string& file = catalog.files()[tensor.extent.file].name;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} {}", formats::ShownPath(file),
                          QuoteForMessage(tensor.name), problem),
              {file, tensor.name});
}

// The role of each tensor by name; nothing where the model's rules do not know it.
class Roles {
 public:
  Roles() = default;
  Roles(const ModelConfig& config, const Catalog& catalog) {
    const std::string_view prefix = FindNamePrefix(catalog);
    // A layer that uses another's indexer may hold one all the same, which has the same roles.
    ModelConfig every_indexer = config;
    every_indexer.indexer_layers.clear();
    ForEachExpected(every_indexer, prefix, [&](const ExpectedTensorView& expected) {
      roles_.emplace(expected.name, expected.role);
      if (expected.role == TensorRole::kExpertLinear) AddFused(expected.name);
    });
  }

  std::optional<TensorRole> Find(std::string_view name) const {
    const auto found = roles_.find(std::string(name));
    return found == roles_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  // transformers keeps all experts of a layer in two tensors.
  void AddFused(std::string_view expert) {
    constexpr std::string_view kFirstExpert = ".experts.0.gate_proj.weight";
    if (!expert.ends_with(kFirstExpert)) return;
    const std::string experts(expert.substr(0, expert.size() - kFirstExpert.size()));
    for (const char* name : {".experts.gate_up_proj", ".experts.down_proj"}) {
      roles_.emplace(experts + name, TensorRole::kExpertLinear);
      roles_.emplace(experts + name + std::string(kWeightSuffix), TensorRole::kExpertLinear);
    }
  }

  std::unordered_map<std::string, TensorRole> roles_;
};

class Globs {
 public:
  explicit Globs(const std::vector<std::string>& globs)
      : globs_(globs), matched_(globs.size(), false) {}

  bool Match(const std::string& name) {
    bool any = false;
    for (std::size_t i = 0; i < globs_.size(); ++i) {
      if (!MatchesGlob(globs_[i], name)) continue;
      matched_[i] = true;
      any = true;
    }
    return any;
  }

  std::vector<std::string> Unmatched() const {
    std::vector<std::string> globs;
    for (std::size_t i = 0; i < globs_.size(); ++i) {
      if (!matched_[i]) globs.push_back(globs_[i]);
    }
    return globs;
  }

 private:
  const std::vector<std::string>& globs_;
  std::vector<bool> matched_;
};

class Selector {
 public:
  // Without `form` the weights take another one than FP8, which the caller checks.
  Selector(const Catalog& catalog, const ModelConfig& config, const Bf16ToFp8Options& options,
           bool has_globs, bool (*is_chosen)(TensorRole), const Fp8Form* form,
           const ModuleList& listed)
      : catalog_(catalog),
        config_(config),
        options_(options),
        has_globs_(has_globs),
        is_chosen_(is_chosen),
        form_(form),
        listed_(listed),
        roles_(HasRoles() ? Roles(config, catalog) : Roles()),
        include_(options.include),
        exclude_(options.exclude) {}

  TensorSelection Run() {
    for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) Take(i);
    CheckGlobs();
    RequireSomething();
    for (const std::uint32_t i : selection_.quantized) CheckSelected(catalog_.tensors()[i]);
    if (form_ != nullptr) {
      for (const std::uint32_t i : selection_.already_fp8) CheckFp8(catalog_.tensors()[i]);
    }
    WarnOfFp8();
    ListModules();
    return std::move(selection_);
  }

 private:
  // Which of V4's weights are FP8 and which FP4 is not decided here, where globs can say it.
  bool HasRoles() const { return config_.known && !(config_.v4 && has_globs_); }

  void Take(std::uint32_t position) {
    const CatalogTensor& tensor = catalog_.tensors()[position];
    const std::optional<TensorRole> role = roles_.Find(tensor.name);
    // Both must see every name, to know which of their globs match none.
    const bool included = include_.Match(tensor.name);
    const bool excluded = exclude_.Match(tensor.name);
    if (IsFp8(tensor.dtype)) {
      selection_.already_fp8.push_back(position);
      return;
    }
    const bool by_rule = role && is_chosen_(*role) && !listed_.Names(ModuleOf(tensor.name));
    if ((by_rule || included) && !excluded) {
      selection_.quantized.push_back(position);
    } else if (LooksLinear(tensor)) {
      left_.emplace_back(position, role);
    }
  }

  static bool LooksLinear(const CatalogTensor& tensor) {
    return FloatFormatOf(tensor.dtype).has_value() &&
           ((tensor.shape.size() == 2 && tensor.name.ends_with(kWeightSuffix)) ||
            tensor.shape.size() == 3);
  }

  void CheckGlobs() {
    const std::vector<std::string> useless = include_.Unmatched();
    if (!useless.empty()) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--include {}: no tensor has a name like this; globs are held "
                              "against whole names such as 'model.layers.0.mlp.up_proj.weight', "
                              "which dsv3-inspect shows",
                              QuoteForMessage(useless[0])));
    }
    for (const std::string& glob : exclude_.Unmatched()) {
      selection_.warnings.push_back(
          {formats::Severity::kWarning, "useless-exclude", "", "",
           fmt::format("--exclude {}: no tensor has a name like this, so it leaves nothing out",
                       QuoteForMessage(glob))});
    }
  }

  void RequireSomething() const {
    if (!selection_.quantized.empty()) return;
    if (!selection_.already_fp8.empty()) {
      const CatalogTensor& first = catalog_.tensors()[selection_.already_fp8[0]];
      Fail(catalog_, first,
           fmt::format("is {}: this is an FP8 checkpoint already ({} of its tensors are FP8, and "
                       "none is left to quantise)",
                       formats::DtypeName(first.dtype), selection_.already_fp8.size()));
    }
    if (!HasRoles() && options_.include.empty()) {
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("config.json: the model_type {} is not one whose quantised tensors are "
                      "known here, so which of them are to be quantised is not either{}",
                      QuoteForMessage(config_.model_type),
                      has_globs_ ? "; name them with --include" : ""),
          {"config.json", ""});
    }
    if (!has_globs_) {
      throw Error(ErrorCode::kBadInput,
                  "this model has none of the weights that are to be quantised; --modules says "
                  "which: all linear layers, or the routed experts alone");
    }
    if (!options_.exclude.empty()) {
      throw Error(ErrorCode::kUsage,
                  "--exclude leaves no tensor to quantise; leave out fewer, or copy the "
                  "checkpoint as it is");
    }
    throw Error(ErrorCode::kBadInput,
                "config.json: modules_to_not_convert (or ignored_layers) leaves no tensor to "
                "quantise; name those to be quantised all the same with --include",
                {"config.json", ""});
  }

  void CheckSelected(const CatalogTensor& tensor) const {
    if (!FloatFormatOf(tensor.dtype)) {
      Fail(catalog_, tensor,
           fmt::format("is {}, expected BF16, F16 or F32; leave it out with --exclude",
                       formats::DtypeName(tensor.dtype)));
    }
    if (tensor.shape.size() != 2 && tensor.shape.size() != 3) {
      Fail(catalog_, tensor,
           fmt::format("has shape {}, expected a matrix, [rows, columns], or experts, [experts, "
                       "rows, columns]; leave it out with --exclude",
                       formats::ShapeToString(tensor.shape)));
    }
    if (tensor.extent.length == 0) {
      Fail(catalog_, tensor,
           fmt::format("has shape {} and so no elements to quantise; leave it out with --exclude",
                       formats::ShapeToString(tensor.shape)));
    }
    if (form_ != nullptr) CheckScales(tensor);
  }

  void CheckScales(const CatalogTensor& tensor) const {
    const std::string scale = ScaleNameOf(tensor.name, form_->naming);
    if (const std::uint32_t taken = catalog_.Find(scale); taken != Catalog::kNone) {
      Fail(catalog_, catalog_.tensors()[taken],
           fmt::format("has the name that the scale of {} needs, which is {} and not FP8; was the "
                       "checkpoint converted in part? Convert it again from its source",
                       QuoteForMessage(tensor.name), formats::DtypeName(tensor.dtype)));
    }
    const std::uint64_t cols =
        DescribeWeight(catalog_, catalog_.Find(tensor.name), *form_, options_.nonfinite)
            .ScaleCols();
    if (cols > kMaxScaleColumns) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("--block {} would give tensor {} of shape {} {} scales side by side, "
                              "expected at most {}; give a wider block",
                              BlockName(form_->block), QuoteForMessage(tensor.name),
                              formats::ShapeToString(tensor.shape), cols, kMaxScaleColumns));
    }
  }

  // A config has room for one form of scales.
  void CheckFp8(const CatalogTensor& tensor) const {
    const std::string scale_name = ScaleNameOf(tensor.name, form_->naming);
    const std::uint32_t scale = catalog_.Find(scale_name);
    const std::string form = fmt::format("the others get {}, {}, {}", BlockName(form_->block),
                                         ScaleFmtName(form_->scale_fmt), scale_name);
    if (tensor.dtype != Dtype::kF8E4M3) {
      Fail(catalog_, tensor,
           fmt::format("is {} already, expected BF16, F16, F32 or F8_E4M3",
                       formats::DtypeName(tensor.dtype)));
    }
    if (scale == Catalog::kNone) {
      for (const std::string& other : ScaleNamesOf(tensor.name)) {
        if (catalog_.Find(other) == Catalog::kNone) continue;
        Fail(catalog_, tensor,
             fmt::format("is FP8 already, and its scale is called {}, but {}; a checkpoint has one "
                         "form of scales, so give one in which this weight is BF16",
                         QuoteForMessage(other), form));
      }
      Fail(catalog_, tensor,
           fmt::format("is FP8 already, but there is no scale {}; without it the weight means "
                       "nothing",
                       QuoteForMessage(scale_name)));
    }
    const CatalogTensor& found = catalog_.tensors()[scale];
    if (tensor.shape.size() != 2 && tensor.shape.size() != 3) {
      Fail(catalog_, tensor,
           fmt::format("is FP8 already and has shape {}, expected a matrix or experts",
                       formats::ShapeToString(tensor.shape)));
    }
    const QuantizedWeight wanted =
        DescribeWeight(catalog_, catalog_.Find(tensor.name), *form_, options_.nonfinite);
    const Dtype dtype = wanted.StoredScaleDtype();
    if (found.dtype == dtype && found.shape == wanted.scale_shape) return;
    Fail(catalog_, found,
         fmt::format("is {} {} and belongs to an FP8 weight, expected {} {} as this command writes "
                     "scales (--block {}, --scale-fmt {}); a checkpoint has one form of scales, so "
                     "give the options that agree",
                     formats::DtypeName(found.dtype), formats::ShapeToString(found.shape),
                     formats::DtypeName(dtype), formats::ShapeToString(wanted.scale_shape),
                     BlockName(form_->block), ScaleFmtName(form_->scale_fmt)));
  }

  void WarnOfFp8() {
    if (selection_.already_fp8.empty()) return;
    constexpr std::size_t kNamed = 5;
    std::string names;
    const std::size_t named = std::min(kNamed, selection_.already_fp8.size());
    for (std::size_t i = 0; i < named; ++i) {
      if (i != 0) names += ", ";
      names += QuoteForMessage(catalog_.tensors()[selection_.already_fp8[i]].name);
    }
    if (named < selection_.already_fp8.size()) {
      names +=
          fmt::format(" and {} more, which --json lists", selection_.already_fp8.size() - named);
    }
    const CatalogTensor& first = catalog_.tensors()[selection_.already_fp8[0]];
    selection_.warnings.push_back(
        {formats::Severity::kWarning, "already-fp8", catalog_.files()[first.extent.file].name,
         first.name,
         fmt::format("the checkpoint is part FP8, part not: {} already FP8 and copied with their "
                     "scales: {}",
                     selection_.already_fp8.size() == 1
                         ? std::string("1 weight is")
                         : fmt::format("{} weights are", selection_.already_fp8.size()),
                     names)});
  }

  // Entries of the list stay as they are unless they name a module that is quantised all the same.
  void ListModules() {
    std::vector<bool> wrong(listed_.entries().size(), false);
    for (const std::vector<std::uint32_t>* fp8 : {&selection_.quantized, &selection_.already_fp8}) {
      for (const std::uint32_t i : *fp8) {
        listed_.ForEachNaming(ModuleOf(catalog_.tensors()[i].name),
                              [&](std::size_t entry) { wrong[entry] = true; });
      }
    }
    std::vector<std::string>& modules = selection_.modules_to_not_convert;
    for (std::size_t i = 0; i < wrong.size(); ++i) {
      if (!wrong[i]) modules.push_back(listed_.entries()[i]);
    }
    const ModuleList kept(modules);
    for (const auto& [position, role] : left_) {
      const std::string_view module = ModuleOf(catalog_.tensors()[position].name);
      if (role != TensorRole::kEmbedding) selection_.linears_left.emplace_back(module);
      if (role && !IsQuantized(*role)) continue;
      if (!kept.Names(module)) modules.emplace_back(module);
    }
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  const Bf16ToFp8Options& options_;
  const bool has_globs_;  // whether the command has --include and --exclude
  bool (*const is_chosen_)(TensorRole);
  const Fp8Form* const form_;
  const ModuleList& listed_;
  Roles roles_;
  Globs include_;
  Globs exclude_;
  TensorSelection selection_;
  // Matrices that are not quantised.
  std::vector<std::pair<std::uint32_t, std::optional<TensorRole>>> left_;
};

}  // namespace

TensorSelection SelectTensors(const Catalog& catalog, const ModelConfig& config,
                              const Bf16ToFp8Options& options, const Fp8Form& form,
                              const ModuleList& listed) {
  return Selector(catalog, config, options, true, IsQuantized, &form, listed).Run();
}

TensorSelection SelectWeights(const Catalog& catalog, const ModelConfig& config,
                              bool (*is_chosen)(TensorRole), const Fp8Form* form,
                              const ModuleList& listed) {
  const Bf16ToFp8Options no_globs;
  return Selector(catalog, config, no_globs, false, is_chosen, form, listed).Run();
}

}  // namespace dsv3::convert
