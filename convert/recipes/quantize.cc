#include "convert/recipes/quantize.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/model/gate_up.h"
#include "convert/model/module_list.h"
#include "convert/plan/quantized_weight.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

bool IsExpert(TensorRole role) { return role == TensorRole::kExpertLinear; }

// Quantises the chosen tensors of a plan.
class Planner {
 public:
  Planner(const Plan& values, const Catalog& source, const QuantizeTarget& target)
      : values_(values),
        source_(source),
        target_(target),
        rule_(target.rule()),
        catalog_(CatalogOf(values)) {}

  const Catalog& catalog() const { return catalog_; }

  void Run(QuantizePlan& result) {
    std::vector<bool> chosen(catalog_.tensors().size(), false);
    for (const std::uint32_t i : result.selection.quantized) chosen[i] = true;
    std::size_t position = 0;
    for (std::size_t i = 0; i < values_.files.size(); ++i) {
      const PlannedFile& file = values_.files[i];
      NamedExpressions tensors;
      for (const PlannedTensor& tensor : file.tensors) {
        if (chosen[position++]) {
          Quantise(i, tensor, tensors);
          continue;
        }
        if (tensor.expression->rule() != "copy") result.left.push_back(tensor.entry.name);
        tensors.emplace_back(tensor.entry.name, tensor.expression);
      }
      result.plan.files.push_back(PlanFile(file.name, std::move(tensors)));
    }
    result.passes = std::move(passes_);
  }

 private:
  [[noreturn]] void Fail(const PlannedTensor& tensor, const std::string& problem) const {
    const ErrorPlace place = PlaceOf(source_, SourceOf(tensor));
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} {}", formats::ShownPath(place.file),
                            QuoteForMessage(tensor.entry.name), problem),
                {place.file, tensor.entry.name});
  }

  // The stored tensor that holds the values.
  static std::uint32_t SourceOf(const PlannedTensor& tensor) {
    return tensor.expression->streamed_sources().at(0);
  }

  void Quantise(std::size_t file, const PlannedTensor& tensor, NamedExpressions& out) {
    const EncodedWeight weight = Describe(file, tensor);
    const std::uint32_t source = SourceOf(tensor);
    EncodeExpressions made = Encode(weight);
    Add(tensor, PartName(tensor, target_.codes), std::move(made.codes), out);
    Add(tensor, PartName(tensor, target_.scale), std::move(made.scale), out);
    if (weight.tensor_scale != nullptr) {
      formats::Shape shape;
      if (target_.tensor_scale_is_vector) shape.push_back(1);
      Add(tensor, PartName(tensor, target_.tensor_scale),
          TensorScaleValue(weight.tensor_scale, std::move(shape), {source}), out);
    }
    if (target_.constants == nullptr) return;
    for (ConstantPart& part : target_.constants(weight.rows, weight.cols)) {
      Add(tensor, PartName(tensor, part.part),
          Constant(part.dtype, std::move(part.shape), std::move(part.bytes), {source}), out);
    }
  }

  // Of FP8's experts in one tensor the codes keep the name.
  std::string PartName(const PlannedTensor& tensor, std::string_view part) const {
    const std::string& name = tensor.entry.name;
    if (target_.fp8) {
      return part == target_.codes ? name : ScaleNameOf(name, target_.fp8->naming);
    }
    return name.substr(0, name.size() - kWeightSuffix.size() + 1) + std::string(part);
  }

  void Add(const PlannedTensor& weight, const std::string& name, ExpressionPtr expression,
           NamedExpressions& out) const {
    if (name != weight.entry.name && catalog_.Find(name) != Catalog::kNone) {
      Fail(weight, fmt::format("is to be quantised, but there is a tensor {} already, whose name "
                               "that needs; was the checkpoint converted in part? Convert it again "
                               "from its source",
                               QuoteForMessage(name)));
    }
    out.emplace_back(name, std::move(expression));
  }

  EncodedWeight Describe(std::size_t file, const PlannedTensor& tensor) {
    const formats::Shape& shape = tensor.entry.shape;
    RequireShape(tensor);
    EncodedWeight weight;
    weight.values = tensor.expression;
    weight.place = PlaceOf(source_, SourceOf(tensor));
    weight.place.tensor = tensor.entry.name;
    weight.matrices = shape.size() == 3 ? shape[0] : 1;
    weight.rows = shape[shape.size() - 2];
    weight.cols = shape.back();
    weight.rule = &rule_;
    weight.codes_dtype = target_.codes_dtype;
    weight.codes_shape = shape;
    weight.codes_shape.back() =
        weight.cols * quant::CodeBits(rule_.codes) / formats::DtypeBits(target_.codes_dtype);
    const quant::FloatFormat own = FloatFormatOf(tensor.entry.dtype).value();
    weight.scale_dtype = target_.scale_dtype.value_or(ScaleDtype(quant::StoredScaleOf(rule_, own)));
    weight.scale_shape = shape;
    weight.scale_shape[shape.size() - 2] = weight.ScaleRows();
    weight.scale_shape.back() = weight.ScaleCols();
    if (rule_.tensor_scale_of != nullptr) weight.tensor_scale = TensorScaleOf(file, tensor, own);
    return weight;
  }

  void RequireShape(const PlannedTensor& tensor) const {
    const formats::Shape& shape = tensor.entry.shape;
    if (!target_.fp8 && (shape.size() != 2 || !tensor.entry.name.ends_with(kWeightSuffix))) {
      Fail(tensor, fmt::format("has shape {}, expected a matrix, [rows, columns], named *.weight: "
                               "{} has no form for experts in one tensor; dsv3-convert layout --to "
                               "hf parts them",
                               formats::ShapeToString(shape), target_.name));
    }
    const std::uint64_t group = rule_.block.cols;
    if (rule_.block.rows == 1 && group != 0 && shape.back() % group != 0) {
      Fail(tensor, fmt::format("has {} columns, which groups of {} do not divide, so it has no {} "
                               "form; {}",
                               shape.back(), group, target_.name,
                               "choose another form with --to, or other weights with --modules"));
    }
  }

  std::shared_ptr<TensorScale> TensorScaleOf(std::size_t file, const PlannedTensor& tensor,
                                             quant::FloatFormat own) {
    const std::string key = TogetherName(tensor.entry.name);
    const auto [found, is_new] = pass_of_.emplace(key, passes_.size());
    if (is_new) passes_.push_back({{}, {}, std::make_shared<TensorScale>(rule_, own)});
    TensorScalePass& pass = passes_[found->second];
    if (pass.files.empty() || pass.files.back() != file) pass.files.push_back(file);
    pass.weights.push_back(SourceOf(tensor));
    return pass.scale;
  }

  // One name for all weights that have a tensor scale together.
  std::string TogetherName(const std::string& name) const {
    if (target_.shares_gate_up == nullptr) return name;
    const std::string module(ModuleOf(name));
    if (!target_.shares_gate_up(module)) return name;
    const std::string partner = GateUpPartner(module);
    return std::min(module, partner.empty() ? module : partner);
  }

  const Plan& values_;
  const Catalog& source_;
  const QuantizeTarget& target_;
  const quant::EncodeRule& rule_;
  const Catalog catalog_;  // of the values
  std::vector<TensorScalePass> passes_;
  std::unordered_map<std::string, std::size_t> pass_of_;
};

}  // namespace

QuantizePlan PlanQuantize(const Plan& values, const Catalog& catalog, const ModelConfig& config,
                          const QuantizeOptions& options, const ModuleList& listed,
                          bool write_index) {
  QuantizeTarget target = TargetOf(options);
  // As in V4's own FP8 checkpoints.
  const bool as_released = target.fp8 && target.tool == QuantizeTool::kDeepSeek;
  if (config.v4 && as_released) target.fp8->naming = ScaleNaming::kScale;
  const QuantizeModules modules = options.modules.value_or(target.modules);
  QuantizePlan result;
  result.plan.recipe = kQuantize;
  result.plan.options = {TextOption("to", QuantizeToName(target.to)),
                         TextOption("recipe", QuantizeToolName(target.tool)),
                         TextOption("modules", QuantizeModulesName(modules))};
  Planner planner(values, catalog, target);
  result.selection = SelectWeights(planner.catalog(), config,
                                   modules == QuantizeModules::kExperts ? IsExpert : IsQuantized,
                                   target.fp8 ? &*target.fp8 : nullptr, listed);
  planner.Run(result);
  if (write_index) result.plan.index = PlanIndex(result.plan);
  return result;
}

}  // namespace dsv3::convert
