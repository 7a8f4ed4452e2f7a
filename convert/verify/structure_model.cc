#include "convert/verify/structure_model.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/model/activation_scales.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/fitting_fields.h"
#include "convert/model/layer_kinds.h"
#include "convert/model/layers_held.h"
#include "convert/model/model_check.h"
#include "convert/model/module_list.h"
#include "convert/model/quantized_form.h"
#include "convert/model/tensor_match.h"
#include "convert/model/v4_tensors.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Severity;

bool IsFp8(Dtype dtype) { return dtype == Dtype::kF8E4M3 || dtype == Dtype::kF8E5M2; }

// The tensor that holds an expected one, itself or with the other experts of its layer, or kNone.
std::uint32_t Locate(const Catalog& catalog, const ExpectedTensorView& expected) {
  const std::uint32_t position = catalog.Find(expected.name);
  if (position != Catalog::kNone || expected.role != TensorRole::kExpertLinear) return position;
  return FindFusedExperts(catalog, expected.name);
}

// Whether all that FP8 releases do not quantise is F16 or F32, and nothing else F16: casting the
// FP8 form of an F16 checkpoint to BF16 leaves it so.
bool KeepsF16(const ModelConfig& model, const Catalog& catalog) {
  const auto& tensors = catalog.tensors();
  if (std::none_of(tensors.begin(), tensors.end(),
                   [](const CatalogTensor& tensor) { return tensor.dtype == Dtype::kF16; })) {
    return false;
  }
  bool any_f16 = false;
  bool any_other = false;
  ForEachExpected(model, FindNamePrefix(catalog), [&](const ExpectedTensorView& expected) {
    const std::uint32_t position = Locate(catalog, expected);
    if (position == Catalog::kNone) return;
    const bool is_f16 = tensors[position].dtype == Dtype::kF16;
    if (IsQuantized(expected.role)) {
      any_other = any_other || is_f16;
    } else {
      any_f16 = any_f16 || is_f16;
      any_other = any_other || tensors[position].dtype == Dtype::kBF16;
    }
  });
  return any_f16 && !any_other;
}

// Judges the dtypes of expected tensors.
class DtypeRules {
 public:
  DtypeRules(const StructureConfig& config, const Catalog& catalog, bool all_readable)
      : torch_dtype_(config.torch_dtype),
        keeps_f16_(KeepsF16(config.model, catalog)),
        left_out_(LeftOut(config.model)) {
    if (!config.model.quantization) return;
    is_quantized_ = true;
    lists_ = fmt::format("{}", fmt::join(config.model.quantization->module_lists, " or "));
    is_fp8_method_ = config.model.quantization->quant_method == "fp8";
    fmt_ = config.model.quantization->fmt;
    // Weights of which none is FP8 are one finding about the config, not one for each.
    const auto& tensors = catalog.tensors();
    demands_fp8_ = is_fp8_method_ && (!all_readable || std::any_of(tensors.begin(), tensors.end(),
                                                                   [](const CatalogTensor& tensor) {
                                                                     return IsFp8(tensor.dtype);
                                                                   }));
  }

  enum class Verdict { kRight, kWrong, kUnexpectedFp8 };

  Verdict Judge(const ExpectedTensorView& expected, Dtype dtype) const {
    if (expected.role == TensorRole::kRouterBias || expected.role == TensorRole::kF32Parameter) {
      return RightIf(dtype == Dtype::kF32);
    }
    if (expected.role == TensorRole::kExpertTable) {
      return RightIf(dtype == Dtype::kI64 || dtype == Dtype::kI32);
    }
    if (!IsQuantized(expected.role)) {
      const bool is_linear =
          expected.role != TensorRole::kNorm && expected.role != TensorRole::kBias;
      if (is_linear && is_quantized_ && IsFp8(dtype)) return Verdict::kUnexpectedFp8;
      return RightIf(IsPlain(dtype) || (dtype == Dtype::kF16 && keeps_f16_));
    }
    if (!is_quantized_) return RightIf(IsPlain(dtype) || IsFp8(dtype));
    if (!is_fp8_method_) return Verdict::kRight;
    if (IsFp8Of(dtype)) return RightIf(!IsLeftOut(expected));
    if (IsPlain(dtype)) return RightIf(!demands_fp8_ || IsLeftOut(expected));
    return Verdict::kWrong;
  }

  // What a tensor of this role should be, for messages.
  std::string Expected(const ExpectedTensorView& expected) const {
    if (expected.role == TensorRole::kRouterBias) return "F32, as router biases always are";
    if (expected.role == TensorRole::kF32Parameter) return "F32, as it always is in this model";
    if (expected.role == TensorRole::kExpertTable) return "I64 or I32: the numbers of experts";
    if (!IsQuantized(expected.role) || !demands_fp8_) {
      return torch_dtype_ == "bfloat16"  ? "BF16 or F32 (torch_dtype is bfloat16)"
             : torch_dtype_ == "float16" ? "F16 or F32 (torch_dtype is float16)"
                                         : "BF16, F16 or F32";
    }
    if (IsLeftOut(expected)) return fmt::format("no FP8: {} names it", lists_);
    return fmt_ == "e5m2" ? "F8_E5M2 (quantization_config)" : "F8_E4M3 (quantization_config)";
  }

 private:
  static std::vector<std::string> LeftOut(const ModelConfig& config) {
    return config.quantization ? config.quantization->modules_to_not_convert
                               : std::vector<std::string>();
  }

  bool IsLeftOut(const ExpectedTensorView& expected) const {
    return left_out_.Names(ModuleOf(expected.name));
  }

  static Verdict RightIf(bool right) { return right ? Verdict::kRight : Verdict::kWrong; }

  // Whether unquantised tensors may have the dtype. F32 holds more than any torch_dtype; BF16 and
  // F16 take the same bytes, so that one in place of the other is a label on wrong values.
  bool IsPlain(Dtype dtype) const {
    if (dtype == Dtype::kBF16) return torch_dtype_ != "float16";
    if (dtype == Dtype::kF16) return torch_dtype_ != "bfloat16";
    return dtype == Dtype::kF32;
  }

  bool IsFp8Of(Dtype dtype) const {
    if (dtype == Dtype::kF8E4M3) return fmt_ != "e5m2";
    return dtype == Dtype::kF8E5M2 && fmt_ != "e4m3";
  }

  std::string torch_dtype_;
  bool keeps_f16_ = false;
  ModuleList left_out_;
  std::string lists_;          // the config's name of left_out_
  bool is_quantized_ = false;  // the config has a quantization_config
  bool is_fp8_method_ = false;
  bool demands_fp8_ = false;
  std::string fmt_;
};

const std::string& FileOf(const Catalog& catalog, std::uint32_t position) {
  return catalog.files()[catalog.tensors()[position].extent.file].name;
}

void AddDtypeFinding(const ExpectedTensorView& expected, DtypeRules::Verdict verdict,
                     const DtypeRules& rules, const Catalog& catalog, std::uint32_t position,
                     formats::Findings& findings) {
  const std::string& file = FileOf(catalog, position);
  const std::string_view dtype = formats::DtypeName(catalog.tensors()[position].dtype);
  const std::string name = QuoteForMessage(expected.name);
  if (verdict == DtypeRules::Verdict::kUnexpectedFp8) {
    findings.push_back(
        {Severity::kWarning, "unexpected-fp8", file, std::string(expected.name),
         fmt::format("{}: tensor {} is {}, but DeepSeek's releases do not quantise it; make sure "
                     "that what loads it expects that",
                     formats::ShownPath(file), name, dtype)});
    return;
  }
  findings.push_back(
      {Severity::kError, "wrong-dtype", file, std::string(expected.name),
       fmt::format("{}: tensor {} is {}, expected {}; download the file again, or make it again "
                   "with a program that keeps dtypes",
                   formats::ShownPath(file), name, dtype, rules.Expected(expected))});
}

// The tensors beside a weight, or in its place, in forms whose scales nobody paired.
void MarkParts(std::string_view weight, const Catalog& catalog, std::vector<bool>& explained) {
  for (const std::string& name : NamesBesideWeight(weight)) {
    const std::uint32_t position = catalog.Find(name);
    if (position != Catalog::kNone) explained[position] = true;
  }
}

// Keeps one of the findings of weights whose codes are there in a form that is not known, with the
// number of the others, and marks what lies in their places.
void GatherUnknownForm(const Catalog& catalog, formats::Findings& findings,
                       std::vector<bool>& explained) {
  std::set<std::string, std::less<>> modules;
  std::optional<Finding> first;
  std::erase_if(findings, [&](Finding& finding) {
    if (UnknownFormIn(finding).empty()) return false;
    modules.emplace(ModuleOf(finding.tensor));
    if (!first) first = std::move(finding);
    return true;
  });
  if (!first) return;
  if (modules.size() > 1) {
    first->message += fmt::format(" ({} more such weights)", modules.size() - 1);
  }
  findings.push_back(std::move(*first));
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const std::string_view name = catalog.tensors()[i].name;
    if (modules.contains(name.substr(0, name.rfind('.')))) explained[i] = true;
  }
}

// Some releases keep the frequencies of rotary embeddings, one for each pair of dimensions, in
// every layer. Programs compute them from the config, so that they may be there or not.
void MarkRotaryFrequencies(const ModelConfig& config, const Catalog& catalog,
                           std::vector<bool>& explained) {
  const std::string_view prefix = FindNamePrefix(catalog);
  const std::vector<std::uint64_t> shape = {config.qk_rope_head_dim / 2};
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (std::uint64_t layer = 0; layer < layers; ++layer) {
    const std::uint32_t position =
        catalog.Find(fmt::format("{}model.layers.{}.self_attn.rotary_emb.inv_freq", prefix, layer));
    if (position == Catalog::kNone) continue;
    const CatalogTensor& tensor = catalog.tensors()[position];
    const bool is_float =
        tensor.dtype == Dtype::kF32 || tensor.dtype == Dtype::kBF16 || tensor.dtype == Dtype::kF16;
    if (is_float && tensor.shape == shape) explained[position] = true;
  }
}

// W4AFP8 keeps the scales of activations beside weights in forms that are not read as FP8, under
// names of its own; beside FP8 weights they have names of one form. Caches' scales may always be
// there.
void MarkActivationScales(const Catalog& catalog, const ScaledWeights& scales,
                          std::vector<bool>& explained) {
  for (const std::uint32_t i : FindActivationScales(catalog, scales.pairs)) explained[i] = true;
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const std::string_view name = catalog.tensors()[i].name;
    const bool is_of_other_form =
        !scales.unsupported.empty() && (name.ends_with(".input_scale") || IsAttentionScale(name));
    if (is_of_other_form || IsCacheScale(name)) explained[i] = true;
  }
}

// What to do about a tensor that the config does not predict. `there`: the layers that are there.
// Empty where only what values fit can say it.
std::string WhyUnexpected(std::string_view name, const ModelConfig& config, std::string_view prefix,
                          const std::optional<LayerCounts>& there) {
  const std::optional<std::uint64_t> layer = LayerOf(name, prefix);
  const std::uint64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  const bool is_mtp = there && layer && *layer >= there->main;
  const bool is_main_by_config = is_mtp && *layer < config.num_hidden_layers;
  if (layer && there && *layer < there->main + there->mtp &&
      (*layer >= layers || is_main_by_config)) {
    return fmt::format("it is of {}: set {}, as many as are there",
                       is_mtp ? "an MTP layer" : "a layer that the config leaves out",
                       FieldsForLayers(config, *there));
  }
  if (layer && *layer < layers && IsOfIndexer(name) && config.index_n_heads > 0 &&
      !HasIndexer(config, *layer)) {
    return "the config says that this layer uses the indexer of a layer before it, so nothing "
           "loads "
           "this one";
  }
  if (config.tie_word_embeddings && name == std::string(prefix) + "lm_head.weight") {
    return "tie_word_embeddings is true, so that programs use the embedding in its place: set it "
           "to false unless this is a copy of the embedding";
  }
  return "";
}

void AddUnexpected(const Catalog& catalog, const std::vector<bool>& explained,
                   const ModelConfig& config, formats::Findings& findings) {
  const std::string_view prefix = FindNamePrefix(catalog);
  const std::optional<LayerCounts> there = LayersHeld(catalog, prefix).Counts();
  std::optional<FittingFields> fields;  // made for the first tensor that needs it
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (explained[i]) continue;
    const CatalogTensor& tensor = catalog.tensors()[i];
    // The towers and projectors beside the language model, which text_config does not describe.
    if (!config.prefix.empty() && !prefix.empty() && !tensor.name.starts_with(prefix)) continue;
    // A draft model beside this one.
    if (config.v4 && config.v4->has_draft && tensor.name.starts_with("mtp.")) continue;
    std::string why = WhyUnexpected(tensor.name, config, prefix, there);
    if (why.empty()) {
      if (!fields) fields.emplace(config, catalog, prefix);
      why = fields->ForUnexpected(i);
    }
    if (why.empty()) {
      why = "if nothing loads it, leave it out, else the config belongs to another model";
    }
    const std::string& file = FileOf(catalog, i);
    findings.push_back(
        {Severity::kWarning, "unexpected-tensor", file, tensor.name,
         fmt::format("{}: config.json ({}) does not predict tensor {} ({} {}); {}",
                     formats::ShownPath(file), config.model_type, QuoteForMessage(tensor.name),
                     formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape), why)});
  }
}

}  // namespace

std::uint64_t CompareWithModel(const StructureConfig& config, const Catalog& catalog,
                               const ScaledWeights& scales, bool all_readable,
                               formats::Findings& findings) {
  const ModelConfig& model = config.model;
  formats::Findings found = CheckAgainstModel(model, catalog);
  std::vector<bool> explained(catalog.tensors().size());
  GatherUnknownForm(catalog, found, explained);
  std::move(found.begin(), found.end(), std::back_inserter(findings));
  // Under other names all would be unexpected.
  if (!model.known || (model.v4 && FindV4ModuleName(catalog) != Catalog::kNone)) return 0;

  std::vector<bool> judged(catalog.tensors().size());
  for (const ScaledWeight& pair : scales.pairs) explained[pair.scale] = true;
  for (const Finding& finding : scales.findings) {
    const std::uint32_t position = catalog.Find(finding.tensor);
    if (position != Catalog::kNone) explained[position] = true;
  }
  for (const Finding& form : scales.unsupported) {
    const std::uint32_t position = catalog.Find(form.tensor);
    if (position == Catalog::kNone) continue;
    judged[position] = true;  // its form says its dtype
    explained[position] = true;
  }
  MarkActivationScales(catalog, scales, explained);
  // Without the blocks of the config no scale of blocks has found its weight.
  const bool lacks_blocks =
      std::any_of(scales.findings.begin(), scales.findings.end(),
                  [](const Finding& finding) { return finding.kind == "no-quantization-config"; });
  const bool has_parts = scales.pairs.empty() || lacks_blocks || !scales.unsupported.empty() ||
                         !model.quantization || model.quantization->quant_method != "fp8";
  const DtypeRules rules(config, catalog, all_readable);
  std::uint64_t num_expected = 0;
  ForEachExpected(model, FindNamePrefix(catalog), [&](const ExpectedTensorView& expected) {
    ++num_expected;
    if (has_parts && expected.shape.size() == 2) MarkParts(expected.name, catalog, explained);
    const std::uint32_t position = Locate(catalog, expected);
    if (position == Catalog::kNone || judged[position]) return;
    explained[position] = judged[position] = true;
    ExpectedTensorView actual = expected;
    actual.name = catalog.tensors()[position].name;
    const auto verdict = rules.Judge(actual, catalog.tensors()[position].dtype);
    if (verdict == DtypeRules::Verdict::kRight) return;
    AddDtypeFinding(actual, verdict, rules, catalog, position, findings);
  });
  MarkRotaryFrequencies(model, catalog, explained);
  AddUnexpected(catalog, explained, model, findings);
  return num_expected;
}

}  // namespace dsv3::convert
