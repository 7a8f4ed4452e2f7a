#include "convert/recipes/to_gguf.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/report_fact.h"
#include "convert/plan/gguf_file.h"
#include "convert/recipes/check_scales.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/gguf_keys.h"
#include "convert/recipes/gguf_tensors.h"
#include "convert/recipes/gguf_tokenizer.h"
#include "convert/recipes/source_fact.h"
#include "formats/error.h"
#include "formats/gguf_type.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

constexpr char kToGguf[] = "to-gguf";
constexpr std::string_view kSuffix = ".gguf";

// What the recipe needs after its plan was made.
struct State {
  QuantizedModel quantized;
  Plan plan;
  GgufTensors tensors;
};

// The quantised weights; none where all weights are floats.
QuantizedModel FindWeights(const OpenedModel& model) {
  const ScaledWeights found = FindScaledWeights(model.catalog, model.config);
  if (found.pairs.empty() && found.formed.empty() && found.findings.empty()) return {};
  return FindQuantizedModel(model.catalog, model.config);
}

// "q8_0".
std::string OptionName(formats::GgufType type) {
  std::string name(formats::GgufTypeInfoOf(type).name);
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return name;
}

SideDigests CheckWeights(const OpenedModel& model, const State& state, bool sha256,
                         const PreflightRun& run, ProgressSink& progress, const StopToken& stop) {
  SideDigests digests = run.known;
  const std::vector<ScaledWeight>& weights = state.quantized.weights;
  if (run.to_make.empty() || weights.empty()) return digests;
  CheckWeightShapes(
      model.catalog, weights, [](std::string_view) { return true; }, run.sources, stop);
  ScaleLook look;
  look.advice = "take a checkpoint whose scales are sound";
  ScaleCheck check = CheckScales(model.catalog, weights, /*allow_bad_scales=*/false, sha256,
                                 run.sources, progress, stop, run.known, look);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    digests.emplace(weights[i].scale, std::move(check.digests[i]));
  }
  for (auto& [tensor, found] : check.beside) digests.emplace(tensor, std::move(found));
  return digests;
}

void CheckGgufOptions(const ConversionRequest& request) {
  if (!request.to_gguf.type) {
    throw Error(ErrorCode::kUsage,
                "--type is missing; give the type of the weights: f32, f16, bf16 or q8_0");
  }
  if (!request.output.string().ends_with(kSuffix)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: the output is one GGUF file; give it a name that ends with .gguf",
                            formats::ShownPath(request.output)),
                {request.output.string(), ""});
  }
}

// The model's name: that of its directory.
std::string NameOf(const OpenedModel& model) {
  const std::filesystem::path directory = model.directory;
  return (directory.has_filename() ? directory : directory.parent_path()).filename().string();
}

}  // namespace

Recipe MakeToGgufRecipe(const OpenedModel& model, const ConversionRequest& request,
                        ProgressSink& progress, const StopToken& stop) {
  const formats::GgufType type = *request.to_gguf.type;
  const auto state = std::make_shared<State>();
  formats::GgufKeys keys = ModelGgufKeys(model, NameOf(model), type);
  if (!request.to_gguf.no_tokenizer) {
    formats::GgufKeys tokenizer =
        TokenizerGgufKeys(model.directory, model.config, model.config_text);
    std::move(tokenizer.begin(), tokenizer.end(), std::back_inserter(keys));
  }
  state->quantized = FindWeights(model);
  state->tensors = PlanGgufTensors(model, state->quantized.weights, state->quantized.dropped, type);
  Plan& plan = state->plan;
  plan.recipe = kToGguf;
  plan.options = {{"type", fmt::format("\"{}\"", OptionName(type))},
                  {"no_tokenizer", request.to_gguf.no_tokenizer ? "true" : "false"}};
  plan.not_read = model.training.skipped;
  plan.files.push_back(
      PlanGgufFile(request.output.filename().string(), keys, std::move(state->tensors.tensors)));
  Recipe recipe{.plan = std::shared_ptr<const Plan>(state, &state->plan),
                .tensors = TensorsOf(model)};
  recipe.converted_tensors = state->tensors.converted;
  const bool sha256 = request.run.tensor_sha256;
  recipe.hooks.preflight = [&model, &progress, &stop, state, sha256](const PreflightRun& run) {
    return CheckWeights(model, *state, sha256, run, progress, stop);
  };
  recipe.add_facts = [&model, state](ConversionReport& report) {
    report.facts.push_back(
        DroppedFact(std::move(state->tensors.left_out), "tensor", "that the file does not hold"));
    if (!model.training.stack.empty()) report.facts.push_back(SourceFact(model.training));
  };
  return recipe;
}

ConversionReport ConvertToGguf(const ConversionRequest& request, formats::FileSystem& fs,
                               ProgressSink& progress, const StopToken& stop) {
  ConversionKind conversion;
  conversion.recipe = kToGguf;
  conversion.title = "Made GGUF";
  conversion.converted_text = "in another dtype";
  conversion.keeps_source =
      "the output is one file, which is complete only when all of the source was read; leave the "
      "option out, and delete the source when the output is complete";
  conversion.one_file = true;
  conversion.opening.mtp_may_be_missing = true;
  conversion.check_options = [&] { CheckGgufOptions(request); };
  conversion.make_recipe = [&](OpenedModel& model) {
    return MakeToGgufRecipe(model, request, progress, stop);
  };
  return RunConversion(conversion, {request.input, request.output, request.run}, fs, progress,
                       stop);
}

}  // namespace dsv3::convert
