#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "convert/recipes/train_to_infer.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::TrainToInferOptions>;

std::vector<Option> RecipeOptions(const std::shared_ptr<Options>& options) {
  using convert::MlaForm;
  using convert::MtpAction;
  using convert::TrainDtype;
  convert::TrainToInferOptions* recipe = &options->recipe;
  std::vector<Option> table =
      TrainingOptionTable(&recipe->from, &recipe->config, &recipe->shard_bytes);
  table.push_back(OneOf<MtpAction>(
      "mtp", "ACTION",
      {{"keep", MtpAction::kKeep, "keep the MTP layers"},
       {"drop", MtpAction::kDrop, "leave the MTP layers out"},
       {"extract", MtpAction::kExtract, "write the MTP layer alone, as SGLang's NextN"},
       {"graft", MtpAction::kGraft, "take MTP layers from another checkpoint"}},
      &recipe->mtp,
      "The MTP layers (multi-token prediction, those behind num_hidden_layers): keep (default); "
      "drop leaves them out; extract writes them alone, as the draft model that SGLang calls "
      "NextN; graft takes them from the checkpoint of --mtp-from, for a model whose training lost "
      "them. Tensors, index and num_nextn_predict_layers change together. Where the config counts "
      "MTP layers and none is there, keep and drop set that number to 0 and say so."));
  table.push_back(PathOption(
      "mtp-from", "DIR", PathUse::kCheckpoint, &recipe->mtp_from,
      "With --mtp graft: the checkpoint that has the MTP layers, in any form that IN may have: a "
      "directory, a file, rank shards, a training checkpoint, a model of the hub cache. Their "
      "shapes must be those that IN's config gives, and their form that of IN: FP8 goes into FP8, "
      "BF16 into BF16."));
  table.push_back(OneOf<MlaForm>(
      "mla", "FORM",
      {{"keep", MlaForm::kKeep, "kv_b_proj in one"},
       {"split", MlaForm::kSplit, "k_b_proj and v_b_proj"}},
      &recipe->mla,
      "The matrix that makes keys and values of the latent vector: keep (default) leaves kv_b_proj "
      "in one; split writes the rows of the keys of all heads as k_b_proj and those of the values "
      "as v_b_proj, with their scales and without rounding."));
  table.push_back(OneOf<TrainDtype>(
      "dtype", "DTYPE",
      {{"bf16", TrainDtype::kBF16, "F32 and F16 weights become BF16"},
       {"keep", TrainDtype::kKeep, "all dtypes stay"}},
      &recipe->dtype,
      "bf16 (default) rounds F32 and F16 weights to BF16, to nearest even; "
      "e_score_correction_bias and other tensors that are F32 in the releases stay F32. keep "
      "leaves every dtype."));
  table.push_back(OfOneRun(
      Flag("link", &options->conversion.run.link,
           "Give a shard of IN that keeps every byte a second name in OUT (a hard link) where the "
           "file system can, so that nothing of it is written. Whoever changes one of the two "
           "files then changes both. Without it such a shard shares its blocks with IN's where the "
           "file system can (a reflink), and is copied otherwise.")));
  return table;
}

}  // namespace

Command TrainToInferCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "train-to-infer";
  command.summary = "make the form that inference needs: BF16, with or without MTP layers";
  command.description = {
      "Writes the checkpoint IN, as training leaves it, to OUT as engines load it. By default F32 "
      "and F16 weights become BF16 and everything else stays; options leave MTP layers out, take "
      "them alone or from another checkpoint, and split kv_b_proj.",
      "Tensors, index and config.json change together. A shard of which nothing changes keeps "
      "every byte, and is not written anew where the file system can share it.",
      std::string(kCompletesInAnyCase)};
  command.arguments = {
      {"IN",
       "The checkpoint: a file of torch.save (.pt, .bin, .pth), a directory of "
       "torch.distributed.checkpoint, an iteration of Megatron or the directory around it, a "
       "directory of pytorch_model-*.bin files; or a Hugging Face checkpoint: a directory, a "
       "single safetensors file, a model directory of the hub cache, or rank shards of "
       "dsv3-reshard.",
       &options->conversion.input},
      OutputArgument(&options->conversion.output)};
  command.options = RecipeOptions(options);
  AddConversionOptions(&options->conversion, command);
  command.examples = {
      {"train-to-infer --mtp drop DeepSeek-V3 DeepSeek-V3-main", "Leave the MTP layer out"},
      {"train-to-infer --mtp graft --mtp-from DeepSeek-V3-bf16 tuned tuned-mtp",
       "Give a fine-tuned model the MTP layer that its training lost"},
      {"train-to-infer --mla split DeepSeek-V3 DeepSeek-V3-split",
       "Write k_b_proj and v_b_proj in place of kv_b_proj"}};
  SetConversion(options, convert::TrainToInferConversion, command);
  return command;
}

}  // namespace dsv3::cli
