#include "convert/recipes/repack.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/model/gate_up.h"
#include "convert/model/scale_names.h"
#include "convert/recipes/own_shards.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;
using quant::TensorScaleUse;

constexpr float kUncalibrated = 1.0F;  // input_scale of NVIDIA's exports without calibration
constexpr std::uint64_t kMxGroup = 32;

std::string_view ModuleOfCodes(std::string_view codes) {
  return codes.substr(0, std::min(codes.rfind('.'), codes.size()));
}

bool IsMxFp4(const ScaledWeight& weight) {
  return weight.format == quant::CodeFormat::kE2M1 &&
         weight.scale_format == quant::ScaleFormat::kE8M0;
}

bool IsNvFp4(const ScaledWeight& weight, TensorScaleUse use) {
  return weight.format == quant::CodeFormat::kE2M1 &&
         weight.scale_format == quant::ScaleFormat::kE4M3 &&
         weight.tensor_scale != Catalog::kNone && weight.tensor_scale_use == use;
}

class Finder {
 public:
  Finder(const OpenedModel& model, RepackTarget target)
      : catalog_(model.catalog), config_(model.config) {
    result_.target = target;
  }

  RepackedModel Run() {
    ScaledWeights found = FindScaledWeights(catalog_, config_);
    formats::RequireNoErrors(found.findings,
                             {"fault of weights and scales", "faults of weights and scales"});
    result_.fp8_beside = config_.quantization && config_.quantization->quant_method == "fp8";
    SortWeights(found);
    if (result_.weights.empty()) FailNothing();
    RequireDescribed(found);
    if (result_.target == RepackTarget::kFp8) {
      TakeBlock();
    } else {
      FindPartners();
      TakeActivations();
    }
    std::sort(result_.nvfp4.begin(), result_.nvfp4.end());
    return std::move(result_);
  }

 private:
  [[noreturn]] void Fail(std::uint32_t tensor, const std::string& message) const {
    const CatalogTensor& found = catalog_.tensors()[tensor];
    const std::string& file = catalog_.files()[found.extent.file].name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} {}", formats::ShownPath(file),
                            QuoteForMessage(found.name), message),
                {file, found.name});
  }

  std::string_view Target() const { return RepackTargetName(result_.target); }

  // What makes the target of weights that cannot have it exactly.
  std::string_view RoundingCommand() const {
    switch (result_.target) {
      case RepackTarget::kFp8:
        return "dsv3-convert quantize --to fp8";
      case RepackTarget::kNvFp4ModelOpt:
        return "dsv3-convert quantize --to nvfp4";
      case RepackTarget::kNvFp4CompressedTensors:
        break;
    }
    return "dsv3-convert quantize --to nvfp4 --recipe llm-compressor";
  }

  // Whether the weight has the target's form; nothing where it cannot get it.
  std::optional<bool> HasTargetForm(const ScaledWeight& weight) const {
    if (IsMxFp4(weight)) return false;
    switch (result_.target) {
      case RepackTarget::kFp8:
        return std::nullopt;
      case RepackTarget::kNvFp4ModelOpt:
        if (IsNvFp4(weight, TensorScaleUse::kMultiply)) return true;
        if (IsNvFp4(weight, TensorScaleUse::kDivide)) return false;
        return std::nullopt;
      case RepackTarget::kNvFp4CompressedTensors:
        if (IsNvFp4(weight, TensorScaleUse::kDivide)) return true;
        if (IsNvFp4(weight, TensorScaleUse::kMultiply)) return false;
        return std::nullopt;
    }
    return std::nullopt;
  }

  void SortWeights(const ScaledWeights& found) {
    std::size_t next = 0;
    for (const ScaledWeights::FormedWeight& formed : found.formed) {
      while (next < found.readable.size() && found.readable[next].weight < formed.weight) ++next;
      const bool readable =
          next < found.readable.size() && found.readable[next].weight == formed.weight;
      const auto has = readable ? HasTargetForm(found.readable[next]) : std::nullopt;
      if (!has) {
        Fail(formed.weight,
             fmt::format("holds {} weights, which cannot become {} without loss; {} rounds them",
                         found.forms[formed.form].name, Target(), RoundingCommand()));
      }
      const ScaledWeight& weight = found.readable[next];
      std::string module(ModuleOfCodes(catalog_.tensors()[weight.weight].name));
      if (result_.target != RepackTarget::kFp8) result_.nvfp4.push_back(module);
      if (*has) continue;
      RepackedWeight repacked;
      repacked.weight = weight;
      for (const char* const part : {"input_scale", "input_global_scale"}) {
        const std::uint32_t scale = catalog_.Find(fmt::format("{}.{}", module, part));
        if (scale != Catalog::kNone) repacked.input_scale = scale;
      }
      repacked.module = std::move(module);
      repacked.found = std::make_shared<FoundScales>();
      result_.weights.push_back(std::move(repacked));
    }
  }

  [[noreturn]] void FailNothing() const {
    if (!result_.nvfp4.empty()) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("the {} weights of FP4 codes have the form {} already, so there is "
                              "nothing to repack",
                              result_.nvfp4.size(), Target()));
    }
    throw Error(ErrorCode::kBadInput,
                fmt::format("not one tensor holds FP4 codes that can become {}{}; {} rounds other "
                            "weights",
                            Target(),
                            result_.target == RepackTarget::kFp8 ? " (MXFP4)"
                                                                 : " (MXFP4, or NVFP4 of the other "
                                                                   "tool)",
                            RoundingCommand()));
  }

  // FP8 weights that stay need a config that describes them beside the target's form.
  void RequireDescribed(const ScaledWeights& found) const {
    if (found.pairs.empty()) return;
    const std::uint32_t first = found.pairs.front().weight;
    if (result_.target == RepackTarget::kNvFp4CompressedTensors) {
      Fail(first,
           "is FP8, and compressed-tensors has no description of its scales beside NVFP4 weights; "
           "give --to nvfp4-modelopt, which has one");
    }
    if (result_.fp8_beside) return;
    Fail(first, fmt::format("is FP8, but config.json does not say quant_method fp8, which is what "
                            "describes such weights beside those of {}; dequantize makes BF16 of "
                            "all",
                            Target()));
  }

  void TakeBlock() {
    const auto& quantization = config_.quantization;
    if (result_.fp8_beside && quantization->weight_block_size) {
      result_.block = *quantization->weight_block_size;
    }
    if (result_.block.rows == 0 || result_.block.cols == 0 || result_.block.cols % kMxGroup != 0) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("config.json: weight_block_size [{}, {}] cuts the groups of 32 "
                              "columns that have a scale each; expected columns that are a "
                              "multiple of 32",
                              result_.block.rows, result_.block.cols),
                  {"config.json", ""});
    }
  }

  void FindPartners() {
    std::unordered_map<std::string_view, std::size_t> by_module;
    for (std::size_t i = 0; i < result_.weights.size(); ++i) {
      if (result_.weights[i].IsMxFp4()) by_module.emplace(result_.weights[i].module, i);
    }
    for (RepackedWeight& each : result_.weights) {
      if (!each.IsMxFp4()) continue;
      const auto partner = by_module.find(GateUpPartner(each.module));
      if (partner != by_module.end()) each.partners.push_back(partner->second);
    }
  }

  void TakeActivations() {
    std::size_t with = 0;
    const RepackedWeight* without = nullptr;
    for (const RepackedWeight& each : result_.weights) {
      if (each.input_scale == Catalog::kNone) {
        without = &each;
        continue;
      }
      ++with;
      const CatalogTensor& scale = catalog_.tensors()[each.input_scale];
      if (scale.dtype != Dtype::kF32 || scale.extent.length != sizeof(float)) {
        Fail(each.input_scale,
             fmt::format("is {} {}, expected one F32 value, the scale of activations",
                         formats::DtypeName(scale.dtype), formats::ShapeToString(scale.shape)));
      }
    }
    result_.activations = result_.target == RepackTarget::kNvFp4ModelOpt || with != 0;
    if (result_.target == RepackTarget::kNvFp4CompressedTensors && with != 0 &&
        without != nullptr) {
      Fail(without->weight.weight,
           fmt::format("has no {}.input_scale, but other weights have one; the config of "
                       "compressed-tensors says for all of them whether activations are quantised",
                       without->module));
    }
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  RepackedModel result_;
};

// Adds the tensors of one weight to the files.
class WeightPlanner {
 public:
  WeightPlanner(const Catalog& catalog, const RepackedModel& repacked,
                std::vector<NamedExpressions>& files)
      : catalog_(catalog), repacked_(repacked), files_(files) {}

  void Add(const RepackedWeight& each) {
    const CatalogTensor& codes = catalog_.tensors()[each.weight.weight];
    switch (repacked_.target) {
      case RepackTarget::kFp8:
        return AddFp8(each);
      case RepackTarget::kNvFp4ModelOpt:
        Put(each.weight.weight, each.module + ".weight",
            SameBytes(catalog_, each.weight.weight, Dtype::kU8, codes.shape));
        AddScales(each, "weight_scale_2", {});
        return AddInputScale(each, "input_scale", {});
      case RepackTarget::kNvFp4CompressedTensors:
        Put(each.weight.weight, each.module + ".weight_packed",
            SameBytes(catalog_, each.weight.weight, Dtype::kU8, codes.shape));
        AddScales(each, "weight_global_scale", {1});
        return AddInputScale(each, "input_global_scale", {1});
    }
  }

 private:
  // Into the file of a source tensor.
  void Put(std::uint32_t beside, std::string name, ExpressionPtr made) {
    files_[catalog_.tensors()[beside].extent.file].emplace_back(std::move(name), std::move(made));
  }

  void AddFp8(const RepackedWeight& each) {
    const std::string weight = each.module + ".weight";
    Put(each.weight.weight, weight, Fp8OfMxFp4(catalog_, each.weight, repacked_.block));
    // V4's other FP8 weights have E8M0 scales of the same name.
    const bool v4 =
        catalog_.tensors()[each.weight.scale].name == ScaleNameOf(weight, ScaleNaming::kScale);
    Put(each.weight.scale, ScaleNameOf(weight, v4 ? ScaleNaming::kScale : ScaleNaming::kScaleInv),
        Fp8ScalesOfMxFp4(catalog_, each.weight, repacked_.block,
                         v4 ? Dtype::kF8E8M0 : Dtype::kF32));
    if (each.input_scale == Catalog::kNone) return;
    Put(each.input_scale, catalog_.tensors()[each.input_scale].name,
        Copy(catalog_, each.input_scale));
  }

  void AddScales(const RepackedWeight& each, const char* tensor_scale, const Shape& one) {
    const ScaledWeight& weight = each.weight;
    const std::string name = each.module + '.' + tensor_scale;
    Put(weight.scale, each.module + ".weight_scale",
        each.IsMxFp4() ? GroupScalesOfMxFp4(catalog_, weight, each.found)
                       : Copy(catalog_, weight.scale));
    if (!each.IsMxFp4()) {
      return Put(weight.tensor_scale, name,
                 OtherTensorScaleOf(weight.tensor_scale, weight.scale, one, each.found));
    }
    std::vector<std::uint32_t> others;
    for (const std::size_t partner : each.partners) {
      others.push_back(repacked_.weights[partner].weight.scale);
    }
    Put(weight.scale, name, TensorScaleOfMxFp4(weight.scale, std::move(others), one, each.found));
  }

  void AddInputScale(const RepackedWeight& each, const char* part, const Shape& one) {
    if (!repacked_.activations) return;
    std::string name = each.module + '.' + part;
    if (each.input_scale == Catalog::kNone) {
      return Put(each.weight.weight, std::move(name), ConstantScale(kUncalibrated, one));
    }
    const CatalogTensor& scale = catalog_.tensors()[each.input_scale];
    Put(each.input_scale, name,
        scale.name == name && scale.shape == one ? Copy(catalog_, each.input_scale)
                                                 : ReciprocalOf(each.input_scale, one));
  }

  const Catalog& catalog_;
  const RepackedModel& repacked_;
  std::vector<NamedExpressions>& files_;
};

}  // namespace

std::string_view RepackTargetName(RepackTarget target) {
  switch (target) {
    case RepackTarget::kFp8:
      return "fp8";
    case RepackTarget::kNvFp4ModelOpt:
      return "nvfp4-modelopt";
    case RepackTarget::kNvFp4CompressedTensors:
      break;
  }
  return "nvfp4-compressed-tensors";
}

RepackedModel FindRepacked(const OpenedModel& model, RepackTarget target) {
  return Finder(model, target).Run();
}

Plan PlanRepack(const Catalog& catalog, const RepackedModel& repacked, bool write_index) {
  Plan plan;
  plan.recipe = "repack";
  plan.options = {TextOption("to", RepackTargetName(repacked.target))};
  std::vector<NamedExpressions> files(catalog.files().size());
  std::vector<bool> taken(catalog.tensors().size(), false);
  std::unordered_map<std::uint32_t, const RepackedWeight*> by_codes;
  for (const RepackedWeight& each : repacked.weights) {
    by_codes.emplace(each.weight.weight, &each);
    for (const std::uint32_t part :
         {each.weight.scale, each.weight.tensor_scale, each.input_scale}) {
      if (part != Catalog::kNone) taken[part] = true;
    }
  }
  WeightPlanner planner(catalog, repacked, files);
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    if (taken[i]) continue;
    const auto weight = by_codes.find(i);
    if (weight != by_codes.end()) {
      planner.Add(*weight->second);
    } else {
      const CatalogTensor& tensor = catalog.tensors()[i];
      files[tensor.extent.file].emplace_back(tensor.name, Copy(catalog, i));
    }
  }
  PlanSameShards(catalog, std::move(files), write_index, plan);
  return plan;
}

}  // namespace dsv3::convert
