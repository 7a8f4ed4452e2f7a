#include <memory>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "cli/base_option.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/json_members.h"
#include "cli/tool_main.h"
#include "cli/training_options.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "convert/verify/structure.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

struct Options {
  VerifyOptions verify;
  ModelOptions model;
  std::string input;
};

// "32 (tp 4, ep 32, dp 8, pp 1) in the format hf-rank"
std::string RanksText(const convert::RankStructure& ranks) {
  return fmt::format("{} (tp {}, ep {}, dp {}, pp {}) in the format {}{}",
                     FormatCount(ranks.sizes.world_size), ranks.sizes.tp, ranks.sizes.ep,
                     ranks.sizes.dp, ranks.sizes.pp, Printable(ranks.format),
                     ranks.grouping == "component" ? ", every slice once" : "");
}

void RanksMember(formats::JsonWriter& json, const std::optional<convert::RankStructure>& ranks) {
  json.Key("ranks");
  if (!ranks || ranks->format.empty()) {
    json.Null();
    return;
  }
  json.BeginObject();
  StringMember(json, "format", ranks->format);
  StringMember(json, "grouping", ranks->grouping);
  json.Uint("world_size", ranks->sizes.world_size);
  json.Uint("tp", ranks->sizes.tp);
  json.Uint("ep", ranks->sizes.ep);
  json.Uint("dp", ranks->sizes.dp);
  json.Uint("pp", ranks->sizes.pp);
  json.EndObject();
}

// "Names of megatron, 12 tensors that are not of the model left out"
std::string TrainingText(const convert::TrainingStructure& training) {
  if (training.stack.empty()) return "cannot be put together";
  std::string text = "names of " + training.stack;
  if (training.skipped > 0) {
    text += fmt::format(", {} not of the model", FormatCountOf(training.skipped, "further tensor"));
  }
  if (training.missing_mtp_layers > 0) {
    text += fmt::format(", without {} that the config counts",
                        FormatCountOf(training.missing_mtp_layers, "MTP layer"));
  }
  return text;
}

void TrainingMember(formats::JsonWriter& json,
                    const std::optional<convert::TrainingStructure>& training) {
  json.Key("training");
  if (!training || training->stack.empty()) {
    json.Null();
    return;
  }
  json.BeginObject();
  StringMember(json, "stack", training->stack);
  json.Uint("skipped_tensors", training->skipped);
  json.Uint("missing_mtp_layers", training->missing_mtp_layers);
  json.EndObject();
}

std::string GoodText(const convert::StructureReport& checked) {
  if (checked.ranks) return "rank files, layout.json and the model's config agree";
  if (checked.training) return "the checkpoint holds every tensor of the config's model";
  if (checked.is_gguf) {
    return checked.known_model ? "keys and tensors agree" : "the header is sound";
  }
  return "headers, index and config agree";
}

}  // namespace

VerifyReport CheckStructure(const std::string& input, const ModelOptions& model,
                            const VerifyOptions& options, CommandContext& /*context*/) {
  convert::StructureRequest request;
  request.input = input;
  request.config = model.config;
  request.from = model.from;
  request.base = model.base;
  const auto held =
      std::make_shared<const convert::StructureReport>(convert::VerifyStructure(request));
  const convert::StructureReport& checked = *held;
  VerifyReport report;
  report.input = input;
  report.directory = checked.directory;
  report.verification = checked.verification;
  report.passes = checked.verification.Passes(options.strict);
  report.title = "Checked the structure of " + formats::ShownPath(input);
  report.good = GoodText(checked);
  std::string model_text = checked.model_type.empty()
                               ? std::string(checked.is_gguf ? "not known: the keys give none"
                                                             : "not known: config.json gives none")
                               : Printable(checked.model_type);
  if (checked.known_model && checked.is_gguf) {
    model_text += ", whose keys say which tensors there are";
  } else if (checked.known_model) {
    model_text += fmt::format(", which has {} without scales",
                              FormatCountOf(checked.expected_tensors, "tensor"));
  } else if (!checked.model_type.empty()) {
    model_text += ", whose tensors are not known, so they were not compared";
  }
  // The files of an unfinished conversion are not looked at.
  const bool looked = !checked.verification.files.empty();
  if (looked) report.lines.emplace_back("model", model_text);
  for (const convert::FormCount& form : checked.forms) {
    report.lines.emplace_back("form",
                              fmt::format("{}: {}, whose codes are not read", Printable(form.name),
                                          FormatCountOf(form.weights, "weight")));
  }
  if (checked.ranks) {
    report.lines.emplace_back("ranks", checked.ranks->format.empty()
                                           ? std::string("not known: layout.json cannot be used")
                                           : RanksText(*checked.ranks));
  }
  if (checked.training) report.lines.emplace_back("training", TrainingText(*checked.training));
  if (looked) {
    report.lines.emplace_back("files", FormatCountOf(checked.verification.files.size(), "file") +
                                           ", of weights the headers only");
    report.lines.emplace_back("tensors", fmt::format("{}{}, {}", FormatCount(checked.tensors),
                                                     checked.is_gguf ? "" : " with scales",
                                                     FormatBytes(checked.tensor_bytes)));
  }
  report.members = [held, &checked](formats::JsonWriter& json) {
    StringOrNullMember(json, "model_type", checked.model_type);
    json.Bool("known_model", checked.known_model);
    json.Uint("expected_tensors", checked.expected_tensors);
    json.Uint("tensors", checked.tensors);
    json.Uint("tensor_bytes", checked.tensor_bytes);
    json.BeginArray("forms");
    for (const convert::FormCount& form : checked.forms) {
      json.BeginObject();
      StringMember(json, "name", form.name);
      json.Uint("weights", form.weights);
      json.EndObject();
    }
    json.EndArray();
    RanksMember(json, checked.ranks);
    TrainingMember(json, checked.training);
  };
  return report;
}

Command StructureCommand() {
  const auto options = std::make_shared<Options>();
  Command command;
  command.name = "structure";
  command.summary = "check headers, index and config against each other";
  command.description = {
      "Reads the headers of the weight files, the index and config.json of DIR, and no weights. "
      "Compares the tensors that are there with those that the config predicts, the index with "
      "the headers, and quantization_config with the quantised weights and their scales.",
      "Everything that is wrong is listed, with what to do, and makes the exit code 1. Headers "
      "that readers accept though they do not conform, and tensors that the config does not "
      "predict, are warnings.",
      "Rank shards are judged by their layout.json: every file is of one job and holds the tensors "
      "that layout.json lists, and the slices give each tensor of the model once.",
      "A training checkpoint holds every tensor that the config predicts, whole and once; the "
      "first fault is the only one that is listed. DIR may be a GGUF file, or any split of "
      "several: it holds the tensors that its keys predict, with their shapes."};
  command.arguments = {{"DIR", kModelDescription, &options->input}};
  command.options = {ConfigOption(&options->model.config), FromOption(&options->model.from),
                     BaseOption(&options->model.base, "DIR"), StrictOption(&options->verify)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {{"structure DeepSeek-V3", "Check a checkpoint in a second"},
                      {"structure --strict DeepSeek-V3 --junit structure.xml",
                       "Fail on warnings, too, and keep the findings for a CI system"}};
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->input, options->verify, context, [&] {
      return CheckStructure(options->input, options->model, options->verify, context);
    });
  };
  return command;
}

}  // namespace dsv3::cli
