#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/conversion_command.h"
#include "cli/run_options.h"
#include "cli/tool_main.h"
#include "convert/recipes/to_gguf.h"

namespace dsv3::cli {

namespace {

using Options = CommandOptions<convert::ToGgufOptions>;

Option TypeOption(convert::ToGgufOptions* recipe) {
  using Type = std::optional<formats::GgufType>;
  return OneOf<Type>("type", "TYPE",
                     {{"f32", formats::GgufType::kF32, ""},
                      {"f16", formats::GgufType::kF16, ""},
                      {"bf16", formats::GgufType::kBF16, ""},
                      {"q8_0", formats::GgufType::kQ8_0, ""}},
                     &recipe->type,
                     "The type of the weights: f32, f16, bf16 or q8_0. Needed. Norms, the router "
                     "and what is not a matrix are F32 in any case; with q8_0, matrices with rows "
                     "that 32 does not divide are F16.");
}

Option MtpOption(convert::ToGgufOptions* recipe) {
  using convert::GgufMtp;
  return OneOf<std::optional<GgufMtp>>(
      "mtp", "ACTION",
      {{"drop", GgufMtp::kDrop, "leave the MTP layers out"},
       {"keep", GgufMtp::kKeep, "write the MTP layer behind the others"}},
      &recipe->mtp,
      "The MTP layer (multi-token prediction, behind num_hidden_layers): drop leaves it out, keep "
      "writes it as the last block, with nextn_predict_layers. Without this it is as llama.cpp's "
      "converter does it: kept for V3.2 and GLM-5 where IN has it, dropped for all others, since "
      "older builds of llama.cpp run it as a layer.");
}

}  // namespace

Command ToGgufCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "to-gguf";
  command.summary = "write a model as GGUF, for llama.cpp";
  command.description = {
      "Writes the model IN as GGUF, as llama.cpp's own converter does it: architecture deepseek2 "
      "(DeepSeek-V2, V3 and R1, Kimi K2, Moonlight), deepseek32 (V3.2), glm-dsa (GLM-5) or "
      "deepseek4 (V4), with the experts of a layer in one tensor, kv_b_proj in two, and the "
      "tokenizer. Quantised weights are multiplied with their scales in F32 and rounded once, to "
      "--type.",
      "OUT.gguf appears under its name only when it is complete, with OUT.gguf.manifest.json "
      "beside it; until then the files are in OUT.gguf.partial. After an interruption of any kind "
      "the same command "
      "continues and gives the same bytes."};
  command.arguments = {
      {"IN",
       "The model, in whatever form other commands read: a Hugging Face checkpoint, BF16 or "
       "quantised, rank shards, or a training checkpoint.",
       &options->conversion.input},
      {std::string(kOutputName) + ".gguf", "The file to write; its name ends with .gguf.",
       &options->conversion.output}};
  command.options.push_back(TypeOption(&options->recipe));
  command.options.push_back(
      Flag("keep-4bit", &options->recipe.keep_4bit,
           "Keep the codes of 4-bit weights: INT4 in groups of 32 (Kimi K2-Thinking, K2.5) becomes "
           "Q4_0, and FP4 with E8M0 scales (V4) MXFP4, both exactly; all other weights take "
           "--type. What cannot "
           "be exact is refused: other groups, zero points, scales that are no F16, and 4-bit "
           "weights in kv_b_proj."));
  command.options.push_back(MtpOption(&options->recipe));
  command.options.push_back(
      Size("max-file-size", &options->recipe.max_file_bytes,
           "Write several files where one would hold more bytes of tensors, named as gguf-split "
           "names them: OUT-00001-of-00003.gguf; llama.cpp is given the first. Bytes, or a number "
           "with K, M, G (1000) or Ki, Mi, Gi (1024). A larger tensor lies alone in a file. "
           "--part and mpirun share the work by these files."));
  command.options.push_back(Flag("no-tokenizer", &options->recipe.no_tokenizer,
                                 "Write no tokenizer. Without this, an IN without tokenizer.json "
                                 "or Kimi's tiktoken.model is refused."));
  std::vector<Option> run = RunOptionTable(&options->conversion.run);
  // There are no files beside the one.
  std::erase_if(run, [](const Option& option) { return option.name == "side-files"; });
  for (Option& option : run) {
    if (option.name == "overwrite") option.help = "Replace OUT.gguf where it is there.";
  }
  AddOptions(std::move(run), command);
  AddOptions(PartOptionTable(&options->conversion.run), command);
  command.examples = {
      {"to-gguf --type q8_0 DeepSeek-V3 DeepSeek-V3-Q8_0.gguf", "For llama.cpp, 8.5 bits a weight"},
      {"to-gguf --type bf16 --keep-4bit Kimi-K2-Thinking k2.gguf",
       "The experts' INT4 as Q4_0, the rest as it is"},
      {"to-gguf --type bf16 DeepSeek-V2-Lite lite.gguf", "Exact for a BF16 model"}};
  SetConversion(options, convert::ToGgufConversion, command);
  return command;
}

}  // namespace dsv3::cli
