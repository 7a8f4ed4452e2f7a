#include <memory>
#include <string>
#include <utility>

#include "cli/base_option.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/forward_comparison_report.h"
#include "cli/forward_report.h"
#include "cli/output_file.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "cli/verify_report.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "convert/forward/token_ids.h"
#include "formats/error.h"
#include "formats/io/file_system.h"

namespace dsv3::cli {

namespace {

using convert::ActivationValues;
using convert::AttentionForm;
using convert::WeightValues;

constexpr char kAutoTokens[] = "auto";

struct Options {
  VerifyOptions verify;
  std::string input;
  std::string other;
  ModelOptions model;
  std::string tokens;
  std::string tokens_file;
  std::string against;
  convert::ForwardLimits limits;
  // What options store as it is; RequestOf adds the rest.
  convert::ForwardRequest request;
};

// Throws Error (kUsage) for options that compare with something that was not given.
void RequireComparison(const Options& options) {
  const convert::ForwardLimits& limits = options.limits;
  const bool is_dump = !options.against.empty();
  if (is_dump && !options.other.empty()) {
    throw Error(ErrorCode::kUsage,
                "--against and OTHER exclude each other; compare with one, then with the other");
  }
  const convert::ForwardRequest& request = options.request;
  const bool writes = !request.logits.empty() || !request.hidden.empty() ||
                      !request.mtp_logits.empty() || !request.trace.empty();
  if (is_dump && (writes || request.generate > 0 || request.top > 0)) {
    throw Error(ErrorCode::kUsage,
                "with --against modules run on the dump's inputs, so the run has no logits of its "
                "own; leave out --logits-out, --hidden-out, --mtp-logits-out, --trace, --generate "
                "and --top");
  }
  const bool of_two = request.replay_routing || limits.max_nmse_is_bf16 || limits.max_kl ||
                      limits.min_cosine || limits.min_top1;
  if (options.other.empty() && of_two) {
    throw Error(ErrorCode::kUsage,
                "--replay-routing, --max-nmse bf16, --max-kl, --min-cosine and --min-top1 are for "
                "two models; name OTHER behind MODEL");
  }
  if (options.other.empty() && !is_dump && limits.max_nmse) {
    throw Error(ErrorCode::kUsage,
                "--max-nmse is for a comparison; name OTHER behind MODEL, or give --against");
  }
}

// Throws Error for files that could not be written, or would take the place of others.
void CheckOutputFiles(const convert::ForwardRequest& request, const Options& options) {
  CheckOutputFile("logits-out", request.logits, OutputContent::kNumpy);
  CheckOutputFile("hidden-out", request.hidden, OutputContent::kNumpy);
  CheckOutputFile("mtp-logits-out", request.mtp_logits, OutputContent::kNumpy);
  CheckOutputFile("trace", request.trace, OutputContent::kTrace);
  RequireDistinctFiles({{"tokens-file", options.tokens_file},
                        {"logits-out", request.logits},
                        {"hidden-out", request.hidden},
                        {"mtp-logits-out", request.mtp_logits},
                        {"trace", request.trace},
                        {"junit", options.verify.junit},
                        {"sarif", options.verify.sarif}});
}

convert::ForwardRequest RequestOf(const Options& options) {
  if (!options.tokens.empty() && !options.tokens_file.empty()) {
    throw Error(ErrorCode::kUsage, "--tokens and --tokens-file exclude each other; give one");
  }
  convert::ForwardRequest request = options.request;
  RequireComparison(options);
  if (request.trace.empty() && !request.modules.empty()) {
    throw Error(ErrorCode::kUsage, "--modules chooses what --trace writes; give --trace, too");
  }
  request.input = options.input;
  request.other = options.other;
  request.against = options.against;
  request.config = options.model.config;
  request.from = options.model.from;
  request.base = options.model.base;
  request.measure_bf16 = options.limits.max_nmse_is_bf16;
  request.auto_tokens = options.tokens == kAutoTokens;
  if (!options.tokens.empty() && !request.auto_tokens) {
    request.sequences = {convert::ParseTokenIds(options.tokens, "--tokens")};
  }
  if (!options.tokens_file.empty()) request.sequences = convert::ReadTokenFile(options.tokens_file);
  // Engines multiply codes of weights and of activations, and round no weight.
  if (convert::Quantizes(request.activations)) request.weights = WeightValues::kExact;
  request.threads = ThreadCount(options.verify);
  return request;
}

Option TokensOption(std::string* tokens) {
  Option option =
      Text("tokens", "IDS", tokens,
           "One sequence of token ids, such as 1,2,3; or auto: fixed ids, 64 and then twice as "
           "many until every expert of every layer was met, 4096 at most. Without it and "
           "--tokens-file 64 fixed ids.");
  option.choices = {{kAutoTokens, "until every expert was met"}};
  option.open = true;
  return option;
}

}  // namespace

Command ForwardCommand() {
  const auto options = std::make_shared<Options>();
  convert::ForwardRequest& request = options->request;
  Command command;
  command.name = "forward";
  command.summary = "run the model on token ids, in a defined arithmetic";
  command.description = {
      // Each paragraph takes several lines.
      // NOLINTNEXTLINE(bugprone-suspicious-missing-comma)
      "Runs token ids through the model, one layer after the other, and reads only the weights "
      "that they meet. The arithmetic is that of transformers in float32; every sum has one order, "
      "so the results of a token do not depend on threads, memory, other sequences or tokens "
      "behind it.",
      "Shows that every weight that was met is there, of its shape and finite, and gives logits, "
      "hidden states and the choices of the router for comparisons with other programs.",
      "Rank shards run as their ranks do: each multiplies its own slices, partial sums are added "
      "in the order of the ranks, and each expert runs where it lies. Copies that several ranks "
      "hold are compared; one that differs is named with its rank, and the exit code is 1.",
      "With OTHER it compares two models. Each module of OTHER whose weights or config differ also "
      "runs on MODEL's input, so a fault is named where it is and nothing behind it; the logits of "
      "OTHER's own run give the figures. The exit code is 0 where nothing differs, or where the "
      "limits hold that are given, and 1 otherwise.",
      "With --against it compares with the outputs of another program, such as an engine, and "
      "names the first module that differs. The exit code is 1 where one does."};
  command.arguments = {
      {"MODEL", kModelDescription, &options->input},
      {"OTHER", "A second checkpoint of the same model, in any form.", &options->other, true}};
  command.options = {
      ConfigOption(&options->model.config),
      FromOption(&options->model.from),
      BaseOption(&options->model.base, "MODEL, OTHER or each of the two"),
      TokensOption(&options->tokens),
      PathOption("tokens-file", "FILE", PathUse::kInputFile, &options->tokens_file,
                 "Sequences of token ids: one on each line, or the rows of an array of integers in "
                 "NumPy's format."),
      PathOption("logits-out", "F.npy", PathUse::kOutputFile, &request.logits,
                 "Write the logits here: float32 [tokens, vocabulary], sequences one after "
                 "another."),
      PathOption("hidden-out", "F.npy", PathUse::kOutputFile, &request.hidden,
                 "Write the hidden states here, after the embedding and after each layer, before "
                 "the final norm: float32 [layers + 1, tokens, hidden]."),
      PathOption("mtp-logits-out", "F.npy", PathUse::kOutputFile, &request.mtp_logits,
                 "Also run the first MTP layer, and write its logits here: float32 [tokens - 1, "
                 "vocabulary] of each sequence."),
      PathOption("trace", "F.safetensors", PathUse::kOutputFile, &request.trace,
                 "Write the outputs of modules here, each under the name that a forward hook of "
                 "PyTorch sees in transformers: float32 [tokens, n]."),
      Text("modules", "PATTERN", &request.modules,
           "With --trace: only modules whose names match this glob, such as "
           "'model.layers.3.*' or '*.mlp'."),
      PathOption(
          "against", "F", PathUse::kInputFile, &options->against,
          "Compare the outputs of modules with those of another program: a safetensors file "
          "of F32, BF16 or F16 tensors with the names of --trace, or logits in NumPy's "
          "format. Each module runs on the dump's inputs. Names the first one whose NMSE is above "
          "--max-nmse."),
      Count(
          "generate", "N", 1'000'000, [options](std::uint64_t n) { options->request.generate = n; },
          "Continue each sequence with the N most likely tokens, one after the other."),
      Count(
          "top", "K", 1'000, [options](std::uint64_t k) { options->request.top = k; },
          "Show the K most likely next tokens of each sequence."),
      Flag("routing", &request.routing,
           "Show the experts of every token and layer, and the margin between the last expert "
           "that was chosen and the best one that was not."),
      OneOf<WeightValues>("weights", "VALUES", WeightChoices(), &request.weights,
                          "The values of FP8 weights: code × scale rounded to BF16, as loaded "
                          "models hold them (the default), or exact. Always exact with quantised "
                          "activations."),
      OneOf<ActivationValues>(
          "activations", "VALUES", ActivationChoices(), &request.activations,
          "The values between modules: fp32 (the default); bf16 rounds the output of every "
          "module; fp8 quantises the inputs of FP8 linears for each token and 128 columns, as "
          "engines do, with fp8-ue8m0 by scales that are powers of two."),
      OneOf<AttentionForm>("attention", "FORM", AttentionChoices(), &request.attention,
                           "The form in which attention is computed: naive (the default) makes "
                           "keys and values of every head, absorbed works on the latents."),
      ThreadsOption(&options->verify),
      Size("memory", &request.memory_bytes,
           "Bound for the weights in memory, 160Mi by default: bytes, or a number with K, M, G "
           "(1000) or Ki, Mi, Gi (1024). The results do not depend on it.")};
  command.options.push_back(
      Flag("replay-routing", &request.replay_routing,
           "Of two models: OTHER takes the experts that MODEL chose, and the keys of its indexer, "
           "so that one choice at a small margin does not hide the rest."));
  AppendLimitOptions(&options->limits, command.options);
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"forward DeepSeek-V3", "Run 64 fixed tokens"},
      {"forward DeepSeek-V3 --tokens 0,671,37 --top 5 --generate 8", "Show what follows a prompt"},
      {"forward DeepSeek-V3 DeepSeek-V3-BF16", "Show that a conversion kept the model"},
      {"forward DeepSeek-V3 --tokens-file ids.txt --logits-out logits.npy",
       "Write logits, to compare them with those of another program"},
      {"forward DeepSeek-V3 --trace outputs.safetensors --modules 'model.layers.3.*'",
       "Write the outputs of every module of a layer"},
      {"forward DeepSeek-V3 --tokens-file ids.npy --against dump.safetensors",
       "Name the first module in which another program differs"}};
  command.after_stop = "nothing was written";
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->input, options->verify, context, [&] {
      const convert::ForwardRequest asked = RequestOf(*options);
      CheckOutputFiles(asked, *options);
      return ForwardVerifyReport(
          asked, options->limits, options->verify.all,
          convert::RunForward(asked, formats::PosixFileSystem(), context.progress, context.stop));
    });
  };
  return command;
}

}  // namespace dsv3::cli
