#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/forward_comparison_report.h"
#include "cli/json_members.h"
#include "cli/output_file.h"
#include "cli/table.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "convert/forward/token_ids.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::ActivationValues;
using convert::AttentionForm;
using convert::ForwardReport;
using convert::WeightValues;

struct Options {
  VerifyOptions verify;
  std::string input;
  std::string other;
  convert::ForwardLimits limits;
  bool replay_routing = false;
  ModelOptions model;
  std::string tokens;
  std::string tokens_file;
  std::string logits;
  std::string hidden;
  std::string mtp_logits;
  std::uint64_t generate = 0;
  std::uint64_t top = 0;
  bool routing = false;
  WeightValues weights = WeightValues::kBF16;
  ActivationValues activations = ActivationValues::kFloat;
  AttentionForm attention = AttentionForm::kNaive;
  std::uint64_t memory_bytes = 0;
};

const std::vector<ChoiceOf<WeightValues>>& WeightChoices() {
  static const std::vector<ChoiceOf<WeightValues>> choices = {
      {"bf16", WeightValues::kBF16, "rounded to BF16"},
      {"exact", WeightValues::kExact, "code × scale"}};
  return choices;
}

const std::vector<ChoiceOf<ActivationValues>>& ActivationChoices() {
  static const std::vector<ChoiceOf<ActivationValues>> choices = {
      {"fp32", ActivationValues::kFloat, "as they are"},
      {"bf16", ActivationValues::kBF16, "rounded behind every module"},
      {"fp8", ActivationValues::kFp8, "quantised where weights are FP8"},
      {"fp8-ue8m0", ActivationValues::kFp8Ue8m0, "the same, scales powers of two"}};
  return choices;
}

const std::vector<ChoiceOf<AttentionForm>>& AttentionChoices() {
  static const std::vector<ChoiceOf<AttentionForm>> choices = {
      {"naive", AttentionForm::kNaive, "as engines prefill"},
      {"absorbed", AttentionForm::kAbsorbed, "as engines decode"}};
  return choices;
}

template <typename T>
const std::string& WordOf(const std::vector<ChoiceOf<T>>& choices, T meaning) {
  for (const ChoiceOf<T>& choice : choices) {
    if (choice.meaning == meaning) return choice.value;
  }
  return choices.front().value;
}

convert::ForwardRequest RequestOf(const Options& options) {
  if (!options.tokens.empty() && !options.tokens_file.empty()) {
    throw Error(ErrorCode::kUsage, "--tokens and --tokens-file exclude each other; give one");
  }
  convert::ForwardRequest request;
  request.input = options.input;
  request.other = options.other;
  request.replay_routing = options.replay_routing;
  request.measure_bf16 = options.limits.max_nmse_is_bf16;
  if (options.other.empty() && (options.replay_routing || options.limits.any())) {
    throw Error(ErrorCode::kUsage,
                "--replay-routing, --max-nmse, --max-kl, --min-cosine and --min-top1 are for two "
                "models; name OTHER behind MODEL");
  }
  request.config = options.model.config;
  request.from = options.model.from;
  if (!options.tokens.empty()) {
    request.sequences = {convert::ParseTokenIds(options.tokens, "--tokens")};
  }
  if (!options.tokens_file.empty()) request.sequences = convert::ReadTokenFile(options.tokens_file);
  const bool quantizes = options.activations == ActivationValues::kFp8 ||
                         options.activations == ActivationValues::kFp8Ue8m0;
  request.weights = quantizes ? WeightValues::kExact : options.weights;
  request.activations = options.activations;
  request.attention = options.attention;
  request.generate = options.generate;
  request.top = options.top;
  request.routing = options.routing;
  request.logits = options.logits;
  request.hidden = options.hidden;
  request.mtp_logits = options.mtp_logits;
  request.threads = ThreadCount(options.verify);
  request.memory_bytes = options.memory_bytes;
  return request;
}

std::string TopText(const ForwardReport& report) {
  if (report.top.empty()) return "";
  Table table("rrr");
  table.Add({"sequence", "token", "logit"});
  for (std::size_t s = 0; s < report.top.size(); ++s) {
    for (const convert::NextToken& next : report.top[s]) {
      table.Add(
          {FormatCount(s + 1), std::to_string(next.token), fmt::format("{:.6f}", next.logit)});
    }
  }
  return table.Text("");
}

std::string RoutingText(const ForwardReport& report, bool all) {
  if (report.routing.empty()) return "";
  Table table("rrrl");
  table.Add({"layer", "token", "margin", "experts"});
  std::size_t rows = 0;
  std::size_t left_out = 0;
  for (const convert::LayerRouting& layer : report.routing) {
    for (std::size_t token = 0; token < layer.experts.size(); ++token) {
      if (!all && rows == kFirstRows) {
        ++left_out;
        continue;
      }
      ++rows;
      table.Add({std::to_string(layer.layer), std::to_string(token),
                 fmt::format("{:.6f}", layer.margins[token]),
                 fmt::format("{}", fmt::join(layer.experts[token], " "))});
    }
  }
  return table.Text("") + MoreLine(left_out);
}

void RoutingMember(formats::JsonWriter& json, const ForwardReport& report) {
  json.Key("routing");
  json.BeginArray();
  for (const convert::LayerRouting& layer : report.routing) {
    json.BeginObject();
    UintMember(json, "layer", layer.layer);
    json.Key("experts");
    json.BeginArray();
    for (const std::vector<std::uint32_t>& experts : layer.experts) {
      json.BeginArray();
      for (const std::uint32_t expert : experts) json.Uint(expert);
      json.EndArray();
    }
    json.EndArray();
    json.Key("margins");
    json.BeginArray();
    for (const float margin : layer.margins) {
      if (std::isfinite(margin)) {
        json.Double(margin);
      } else {
        json.Null();
      }
    }
    json.EndArray();
    json.EndObject();
  }
  json.EndArray();
}

void GeneratedMember(formats::JsonWriter& json, const ForwardReport& report) {
  json.Key("generated");
  json.BeginArray();
  for (const std::vector<std::uint32_t>& tokens : report.generated) {
    json.BeginArray();
    for (const std::uint32_t token : tokens) json.Uint(token);
    json.EndArray();
  }
  json.EndArray();
}

void TopMember(formats::JsonWriter& json, const ForwardReport& report) {
  json.Key("top");
  json.BeginArray();
  for (const std::vector<convert::NextToken>& best : report.top) {
    json.BeginArray();
    for (const convert::NextToken& next : best) {
      json.BeginObject();
      UintMember(json, "token", next.token);
      DoubleMember(json, "logit", next.logit);
      json.EndObject();
    }
    json.EndArray();
  }
  json.EndArray();
}

VerifyReport ReportOf(const Options& options, const ForwardReport& run) {
  const auto held = std::make_shared<const ForwardReport>(run);
  const ForwardReport& ran = *held;
  VerifyReport report;
  report.input = options.input;
  report.directory = ran.directory;
  report.verification.check = "forward";
  report.title = "Ran " + formats::ShownPath(options.input);
  report.good = "every weight that was met is finite";
  if (ran.comparison) {
    report.title += " and " + formats::ShownPath(options.other);
    report.good = options.limits.any() ? "the outputs are within the limits"
                                       : "every weight that was met has the same values, and the "
                                         "outputs are the same";
    report.verification.findings = convert::JudgeComparison(*ran.comparison, options.limits);
    report.passes = report.verification.Passes(false);
  } else if (ran.ranks) {
    report.good = "every weight that was met is finite, and all ranks have the same copies of it";
    report.verification.findings = convert::JudgeCopies(ran.rank_differences);
    report.passes = report.verification.Passes(false);
  }
  report.lines.emplace_back("model", fmt::format("{}, {}", Printable(ran.model_type),
                                                 FormatCountOf(ran.layers, "layer")));
  AppendRankLines(ran, report.lines);
  report.lines.emplace_back("tokens", fmt::format("{} in {}", FormatCount(ran.tokens),
                                                  FormatCountOf(ran.sequences, "sequence")));
  if (ran.experts > 0) {
    report.lines.emplace_back("experts",
                              fmt::format("{} of {} were met; of the others nothing is shown",
                                          FormatCount(ran.experts_read), FormatCount(ran.experts)));
  }
  report.lines.emplace_back("read", FormatBytes(ran.bytes_read));
  if (ran.perplexity) {
    report.lines.emplace_back("perplexity", fmt::format("{:.6g}", *ran.perplexity));
  }
  if (ran.comparison) AppendComparisonLines(*ran.comparison, report.lines);
  for (std::size_t s = 0; s < ran.generated.size(); ++s) {
    report.lines.emplace_back("generated", fmt::format("{}", fmt::join(ran.generated[s], ",")));
  }
  report.detail = TopText(ran);
  const std::string routing = RoutingText(ran, options.verify.all);
  if (!report.detail.empty() && !routing.empty()) report.detail += "\n";
  report.detail += routing;
  const Options copy = options;
  report.members = [held, copy, &ran](formats::JsonWriter& json) {
    StringOrNullMember(json, "other", copy.other);
    StringMember(json, "weights", WordOf(WeightChoices(), RequestOf(copy).weights));
    StringMember(json, "activations", WordOf(ActivationChoices(), copy.activations));
    StringMember(json, "attention", WordOf(AttentionChoices(), copy.attention));
    RanksMember(json, ran);
    UintMember(json, "sequences", ran.sequences);
    UintMember(json, "tokens", ran.tokens);
    UintMember(json, "bytes_read", ran.bytes_read);
    UintMember(json, "experts", ran.experts);
    UintMember(json, "experts_read", ran.experts_read);
    json.Key("perplexity");
    if (ran.perplexity) {
      json.Double(*ran.perplexity);
    } else {
      json.Null();
    }
    GeneratedMember(json, ran);
    TopMember(json, ran);
    RoutingMember(json, ran);
    ComparisonMembers(json, ran);
  };
  return report;
}

}  // namespace

Command ForwardCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "forward";
  command.summary = "run the model on token ids, in a defined arithmetic";
  command.description = {
      "Runs token ids through the model, one layer after the other, and reads only the weights "
      "that they meet. The arithmetic is that of transformers in float32; every sum has one order, "
      "so the results of a token do not depend on threads, memory, other sequences or tokens "
      "behind it.",
      "Shows that every weight that was met is there, of its shape and finite, and gives logits, "
      "hidden states and the choices of the router for comparisons with other programs.",
      "Rank shards run as their ranks do: each multiplies its own slices, partial sums are added "
      "in "
      "the order of the ranks, and each expert runs where it lies. Copies that several ranks hold "
      "are compared; one that differs is named with its rank, and the exit code is 1.",
      "With OTHER it compares two models. Each module of OTHER whose weights or config differ also "
      "runs on MODEL's input, so a fault is named where it is and nothing behind it; the logits of "
      "OTHER's own run give the figures. The exit code is 0 where nothing differs, or where the "
      "limits hold that are given, and 1 otherwise."};
  command.arguments = {
      {"MODEL", kModelDescription, &options->input},
      {"OTHER", "A second checkpoint of the same model, in any form.", &options->other, true}};
  command.options = {
      ConfigOption(&options->model.config),
      FromOption(&options->model.from),
      Text("tokens", "IDS", &options->tokens,
           "One sequence of token ids, such as 1,2,3. Without it and --tokens-file 64 fixed ids."),
      PathOption("tokens-file", "FILE", PathUse::kInputFile, &options->tokens_file,
                 "Sequences of token ids: one on each line, or the rows of an array of integers in "
                 "NumPy's format."),
      PathOption("logits-out", "F.npy", PathUse::kOutputFile, &options->logits,
                 "Write the logits here: float32 [tokens, vocabulary], sequences one after "
                 "another."),
      PathOption("hidden-out", "F.npy", PathUse::kOutputFile, &options->hidden,
                 "Write the hidden states here, after the embedding and after each layer, before "
                 "the final norm: float32 [layers + 1, tokens, hidden]."),
      PathOption("mtp-logits-out", "F.npy", PathUse::kOutputFile, &options->mtp_logits,
                 "Also run the first MTP layer, and write its logits here: float32 [tokens - 1, "
                 "vocabulary] of each sequence."),
      Count(
          "generate", "N", 1'000'000, [options](std::uint64_t n) { options->generate = n; },
          "Continue each sequence with the N most likely tokens, one after the other."),
      Count(
          "top", "K", 1'000, [options](std::uint64_t k) { options->top = k; },
          "Show the K most likely next tokens of each sequence."),
      Flag("routing", &options->routing,
           "Show the experts of every token and layer, and the margin between the last expert "
           "that was chosen and the best one that was not."),
      OneOf<WeightValues>("weights", "VALUES", WeightChoices(), &options->weights,
                          "The values of FP8 weights: code × scale rounded to BF16, as loaded "
                          "models hold them (the default), or exact. Always exact with quantised "
                          "activations."),
      OneOf<ActivationValues>(
          "activations", "VALUES", ActivationChoices(), &options->activations,
          "The values between modules: fp32 (the default); bf16 rounds the output of every "
          "module; fp8 quantises the inputs of FP8 linears for each token and 128 columns, as "
          "engines do, with fp8-ue8m0 by scales that are powers of two."),
      OneOf<AttentionForm>("attention", "FORM", AttentionChoices(), &options->attention,
                           "The form in which attention is computed: naive (the default) makes "
                           "keys and values of every head, absorbed works on the latents."),
      ThreadsOption(&options->verify),
      Size("memory", &options->memory_bytes,
           "Bound for the weights in memory, 160Mi by default: bytes, or a number with K, M, G "
           "(1000) or Ki, Mi, Gi (1024). The results do not depend on it.")};
  command.options.push_back(
      Flag("replay-routing", &options->replay_routing,
           "Of two models: OTHER takes the experts that MODEL chose, and the keys of its indexer, "
           "so that one choice at a small margin does not hide the rest."));
  AppendLimitOptions(&options->limits, command.options);
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"forward DeepSeek-V3", "Run 64 fixed tokens"},
      {"forward DeepSeek-V3 --tokens 0,671,37 --top 5 --generate 8", "Show what follows a prompt"},
      {"forward DeepSeek-V3 DeepSeek-V3-BF16", "Show that a conversion kept the model"},
      {"forward DeepSeek-V3 --tokens-file ids.txt --logits-out logits.npy",
       "Write logits, to compare them with those of another program"}};
  command.after_stop = "nothing was written";
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->input, options->verify, context, [&] {
      CheckOutputFile("logits-out", options->logits);
      CheckOutputFile("hidden-out", options->hidden);
      CheckOutputFile("mtp-logits-out", options->mtp_logits);
      return ReportOf(*options, convert::RunForward(RequestOf(*options), formats::PosixFileSystem(),
                                                    context.progress, context.stop));
    });
  };
  return command;
}

}  // namespace dsv3::cli
