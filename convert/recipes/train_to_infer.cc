#include "convert/recipes/train_to_infer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"
#include "convert/job/report_fact.h"
#include "convert/job/runner.h"
#include "convert/model/config_edit.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/cast_expression.h"
#include "convert/recipes/mla_edit.h"
#include "convert/recipes/mtp_edit.h"
#include "convert/recipes/mtp_graft.h"
#include "convert/recipes/side_files.h"
#include "convert/recipes/source_fact.h"
#include "convert/recipes/weight_dtypes.h"
#include "formats/checkpoint_files.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

std::string_view NameOf(MtpAction action) {
  switch (action) {
    case MtpAction::kKeep:
      return "keep";
    case MtpAction::kDrop:
      return "drop";
    case MtpAction::kExtract:
      return "extract";
    case MtpAction::kGraft:
      return "graft";
  }
  return "";
}

std::string TitleOf(const TrainToInferOptions& options) {
  const bool split = options.mla == MlaForm::kSplit;
  switch (options.mtp) {
    case MtpAction::kKeep:
      return split ? "Split kv_b_proj" : "Made the inference form";
    case MtpAction::kDrop:
      return split ? "Dropped the MTP layers and split kv_b_proj" : "Dropped the MTP layers";
    case MtpAction::kExtract:
      return "Extracted the MTP layer";
    case MtpAction::kGraft:
      return "Grafted MTP layers";
  }
  return "";
}

void CheckOptions(const TrainToInferOptions& options) {
  if (options.mtp == MtpAction::kGraft && options.mtp_from.empty()) {
    throw Error(ErrorCode::kUsage,
                "--mtp graft: add --mtp-from DIR, the checkpoint that has the MTP layers");
  }
  if (options.mtp != MtpAction::kGraft && !options.mtp_from.empty()) {
    throw Error(ErrorCode::kUsage,
                "--mtp-from goes with --mtp graft, which takes the MTP layers of that checkpoint");
  }
}

void CheckForm(const TrainToInferOptions& options, const OpenedModel& model) {
  if (model.has_own_shards() && options.shard_bytes != 0) {
    throw Error(ErrorCode::kUsage,
                "--max-shard-size goes with a training checkpoint; the shards of this one keep "
                "their tensors");
  }
}

// F32 and F16 weights become BF16; nothing else changes its numbers.
void CastWeights(const OpenedModel& model, TrainDtype dtype, ModelEdit& edit) {
  const Bf16Names names(model);
  for (EditedTensor& tensor : edit.tensors) {
    const CatalogTensor& source = model.catalog.tensors()[tensor.copy_of];
    if (!names.Hold(tensor.name)) continue;
    if (dtype == TrainDtype::kKeep || !IsWiderFloat(source.dtype)) continue;
    tensor.expression = CastToBF16(model.catalog, tensor.copy_of);
    tensor.copy_of = Catalog::kNone;
    edit.cast.push_back(tensor.name);
  }
}

// The config of a training checkpoint is often that of a release, whose weights are FP8.
void FitConfig(const OpenedModel& model, ModelEdit& edit) {
  if (model.training.stack.empty()) {
    if (!edit.cast.empty()) SetConfigDtype(model.config, "bfloat16", edit.config);
    return;
  }
  const bool has_fp8 =
      std::any_of(edit.tensors.begin(), edit.tensors.end(),
                  [](const EditedTensor& tensor) { return IsFp8(tensor.expression->dtype()); });
  if (has_fp8) return;
  if (model.config.quantization) {
    RemovedConfig unused;
    edit.config = ConfigForBf16(edit.config, model.config, unused);
  }
  // Whatever the few tensors that stay F32 are, most bytes are weights.
  std::map<Dtype, std::uint64_t> bytes;
  for (const EditedTensor& tensor : edit.tensors) {
    bytes[tensor.expression->dtype()] += tensor.expression->num_bytes();
  }
  const std::uint64_t bf16 = bytes[Dtype::kBF16];
  const bool is_f32 = bytes[Dtype::kF32] > bf16 && bytes[Dtype::kF32] > bytes[Dtype::kF16];
  const bool is_f16 = !is_f32 && bytes[Dtype::kF16] > bf16;
  SetConfigDtype(model.config, is_f32 ? "float32" : is_f16 ? "float16" : "bfloat16", edit.config);
}

// Where the MTP layers of --mtp-from have an embedding or a head of their own, which are not taken.
void WarnOfOtherCopies(const OpenedModel& model, const ModelEdit& edit, const PreflightRun& run,
                       const StopToken& stop) {
  for (const SharedCopy& pair : edit.left_copies) {
    if (!FindDifference(model, pair, stop, edit.grafted_from.get())) continue;
    const CatalogTensor& copy = model.catalog.tensors()[pair.copy];
    run.warn({formats::Severity::kWarning, "own-copy", model.catalog.files()[copy.extent.file].name,
              copy.name,
              fmt::format("--mtp-from: tensor {} differs from {} there, so its MTP layer was "
                          "trained with one of its own; OUT has that of IN's main model, which "
                          "engines share with MTP layers",
                          QuoteForMessage(copy.name),
                          QuoteForMessage(model.catalog.tensors()[pair.main].name))});
  }
}

// The model with all steps that the options ask for: floats to BF16, then the MTP layers, then
// kv_b_proj. A second checkpoint (kGraft) is appended to the model's catalog.
ModelEdit EditForInference(const TrainToInferOptions& options, const std::filesystem::path& base,
                           const std::filesystem::path& output, OpenedModel& model) {
  ModelEdit edit = BeginEdit(model);
  CastWeights(model, options.dtype, edit);
  switch (options.mtp) {
    case MtpAction::kKeep:
      KeepMtp(model, edit);
      break;
    case MtpAction::kDrop:
      DropMtp(model, edit);
      break;
    case MtpAction::kExtract:
      ExtractMtp(model, edit);
      break;
    case MtpAction::kGraft:
      GraftMtp(options, base, output, model, edit);
      break;
  }
  if (options.mla == MlaForm::kSplit) SplitKvB(model, edit);
  FitConfig(model, edit);
  return edit;
}

}  // namespace

ConversionKind TrainToInferConversion(const TrainToInferOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kTrainToInfer;
  conversion.title = TitleOf(options);
  conversion.converted_text = "to BF16";
  conversion.frees_assembled = true;
  conversion.opening.mtp_may_be_missing = true;
  conversion.opening.config = options.config;
  conversion.opening.takes_config = true;
  conversion.opening.from = options.from;
  conversion.check_options = [options](const JobRequest&) { CheckOptions(options); };
  conversion.make_recipe = [options, opening = conversion.opening](OpenedModel& model,
                                                                   const RecipeContext& context) {
    const JobRequest& request = context.request;
    RequireUsed(opening, model);
    CheckForm(options, model);
    RequireWeights(model);
    const auto edit = std::make_shared<ModelEdit>(
        EditForInference(options, request.run.base, request.output, model));
    const auto plan = std::make_shared<Plan>(PlanEdit(
        model, *edit, options.shard_bytes == 0 ? kDefaultShardBytes : options.shard_bytes));
    plan->recipe = kTrainToInfer;
    plan->not_read = model.training.skipped;
    plan->options = {TextOption("dtype", options.dtype == TrainDtype::kBF16 ? "bf16" : "keep"),
                     TextOption("mla", options.mla == MlaForm::kSplit ? "split" : "keep"),
                     TextOption("mtp", NameOf(options.mtp))};
    PlanSideFiles(model, edit->config, {.all = request.run.all_side_files}, *plan);
    Recipe recipe{.plan = plan, .tensors = TensorsOf(model, edit->grafted_from.get())};
    recipe.converted_tensors = edit->cast.size();
    recipe.warnings = edit->warnings;
    recipe.hooks.preflight = [&model, edit, context](const PreflightRun& run) {
      if (run.to_make.empty()) return run.known;
      RequireEqualCopies(model, edit->copies, context.stop);
      WarnOfOtherCopies(model, *edit, run, context.stop);
      return run.known;
    };
    recipe.add_facts = [edit, training = model.training](ConversionReport& report) {
      report.facts.push_back(DroppedFact(std::move(edit->dropped), "tensor", "of MTP layers"));
      report.facts.push_back(
          FactOf("grafted", std::move(edit->grafted), "tensor", "of MTP layers"));
      report.facts.push_back(
          FactOf("split", std::move(edit->split), "tensor", "into k_b_proj and v_b_proj"));
      report.facts.push_back(FactOf("shared", std::move(edit->shared), "tensor",
                                    "of MTP layers, made of IN's embedding and head"));
      if (!training.stack.empty()) report.facts.push_back(SourceFact(training));
    };
    return recipe;
  };
  return conversion;
}

}  // namespace dsv3::convert
