#include "convert/recipes/to_gguf.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/report_fact.h"
#include "convert/open/gguf_architecture.h"
#include "convert/open/gguf_keys.h"
#include "convert/plan/gguf_file.h"
#include "convert/plan/gguf_four_bit_expression.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/folded_bias.h"
#include "convert/recipes/gguf_preflight.h"
#include "convert/recipes/gguf_tensors.h"
#include "convert/recipes/gguf_tokenizer.h"
#include "convert/recipes/gguf_warnings.h"
#include "convert/recipes/source_fact.h"
#include "formats/error.h"
#include "formats/gguf.h"
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

void CheckGgufOptions(const ToGgufOptions& options, const std::filesystem::path& output) {
  if (!options.type) {
    throw Error(ErrorCode::kUsage,
                "--type is missing; give the type of the weights: f32, f16, bf16 or q8_0");
  }
  const std::string name = output.filename().string();
  if (!name.ends_with(kSuffix) || name == kSuffix) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: the output is a GGUF file; give it a name that ends with .gguf, "
                            "such as model.gguf",
                            formats::ShownPath(output)),
                {output.string(), ""});
  }
}

void RequireKept(const std::vector<ScaledWeight>& kept) {
  if (!kept.empty()) return;
  throw Error(ErrorCode::kBadInput,
              "no weight of the model is INT4 or MXFP4, so there is nothing for --keep-4bit to "
              "keep; leave the option out");
}

// llama.cpp's number of a file: that of its weights' type, or of those that stay in four bits.
std::uint32_t FileTypeOf(const ToGgufOptions& options, const std::vector<ScaledWeight>& weights) {
  using formats::GgufType;
  GgufType type = *options.type;
  for (const ScaledWeight& weight : weights) {
    const std::optional<GgufType> kept = FourBitGgufType(weight);
    if (!options.keep_4bit || !kept) continue;
    type = *kept;
    break;
  }
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kBF16:
      return 32;
    case GgufType::kMxfp4:
      return 38;
    default:
      return 7;  // Q8_0
  }
}

// What llama.cpp's loader needs in place of a tokenizer.
void AddNoTokenizer(const ModelConfig& config, const GgufTarget& target, formats::GgufKeys& keys) {
  keys.emplace_back("tokenizer.ggml.model", std::string("none"));
  std::string size = fmt::format("{}.vocab_size", NameOfGgufArchitecture(target.architecture));
  if (formats::FindGgufKey(keys, size) != nullptr) return;
  keys.emplace_back(std::move(size), static_cast<std::uint32_t>(config.vocab_size));
}

// The model's name: that of its directory.
std::string NameOf(const OpenedModel& model) {
  const std::filesystem::path directory = model.directory;
  return (directory.has_filename() ? directory : directory.parent_path()).filename().string();
}

// Refers to the model and to what `context` refers to.
Recipe MakeToGgufRecipe(const OpenedModel& model, const ToGgufOptions& options,
                        const RecipeContext& context) {
  const auto state = std::make_shared<State>();
  const GgufTarget target = GgufTargetOf(model.config, options.mtp);
  state->quantized = FindWeights(model);
  const std::vector<ScaledWeight>& weights = state->quantized.weights;
  formats::GgufKeys keys =
      ModelGgufKeys(model, target, NameOf(model), FileTypeOf(options, weights));
  if (options.no_tokenizer) {
    AddNoTokenizer(model.config, target, keys);
  } else {
    formats::GgufKeys tokenizer =
        TokenizerGgufKeys(model.directory, model.config, model.config_text);
    std::move(tokenizer.begin(), tokenizer.end(), std::back_inserter(keys));
  }
  state->tensors = PlanGgufTensors(model, target, weights, state->quantized.dropped,
                                   {*options.type, options.keep_4bit});
  if (options.keep_4bit) RequireKept(state->tensors.kept);
  AddSizeLabel(state->tensors.tensors, keys);
  Plan& plan = state->plan;
  plan.recipe = kToGguf;
  plan.options = {TextOption("type", OptionName(*options.type)),
                  FlagOption("keep_4bit", options.keep_4bit),
                  TextOption("mtp", target.mtp_layers > 0 ? "keep" : "drop"),
                  NumberOption("max_file_size", options.max_file_bytes),
                  FlagOption("no_tokenizer", options.no_tokenizer)};
  plan.not_read = model.training.skipped;
  plan.files = PlanGgufFiles(context.request.output.filename().string(), keys,
                             std::move(state->tensors.tensors), options.max_file_bytes);
  Recipe recipe{.plan = std::shared_ptr<const Plan>(state, &state->plan),
                .tensors = TensorsOf(model)};
  recipe.converted_tensors = state->tensors.converted;
  recipe.warnings = GgufWarnings(model, target);
  recipe.hooks.preflight = [&model, context, state](const PreflightRun& run) {
    RefuseFoldedBiases(model.catalog, state->plan, state->quantized.weights, run, context.progress,
                       context.stop, /*of_all_files=*/true);
    return CheckGgufWeights(model.catalog, state->quantized.weights, state->tensors.kept,
                            context.request.run.tensor_sha256, run, context.progress, context.stop);
  };
  recipe.add_facts = [&model, state](ConversionReport& report) {
    report.facts.push_back(
        DroppedFact(std::move(state->tensors.left_out), "tensor", "that the file does not hold"));
    if (!model.training.stack.empty()) report.facts.push_back(SourceFact(model.training));
  };
  return recipe;
}

}  // namespace

ConversionKind ToGgufConversion(const ToGgufOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kToGguf;
  conversion.title = "Made GGUF";
  conversion.converted_text = "of the model's in another dtype";
  conversion.keeps_source =
      "the output is one file, which is complete only when all of the source was read; leave the "
      "option out, and delete the source when the output is complete";
  conversion.one_file = true;
  conversion.opening.mtp_may_be_missing = true;
  conversion.check_options = [options](const JobRequest& request) {
    CheckGgufOptions(options, request.output);
  };
  conversion.make_recipe = [options](const OpenedModel& model, const RecipeContext& context) {
    return MakeToGgufRecipe(model, options, context);
  };
  return conversion;
}

}  // namespace dsv3::convert
