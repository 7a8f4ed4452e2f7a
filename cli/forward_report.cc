#include "cli/forward_report.h"

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/console.h"
#include "cli/forward_comparison_report.h"
#include "cli/forward_dump_report.h"
#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {

using convert::ActivationValues;
using convert::AttentionForm;
using convert::ForwardReport;
using convert::WeightValues;

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

namespace {

template <typename T>
const std::string& WordOf(const std::vector<ChoiceOf<T>>& choices, T meaning) {
  for (const ChoiceOf<T>& choice : choices) {
    if (choice.meaning == meaning) return choice.value;
  }
  return choices.front().value;
}

std::string ExpertsText(const ForwardReport& report) {
  std::string met = fmt::format("{} of {} were met", FormatCount(report.experts_read),
                                FormatCount(report.experts));
  const std::uint64_t others = report.experts - report.experts_read;
  if (others == 0) return met;
  return met + fmt::format("; of {} nothing is shown", FormatCountOf(others, "expert"));
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
  json.BeginArray("routing");
  for (const convert::LayerRouting& layer : report.routing) {
    json.BeginObject();
    json.Uint("layer", layer.layer);
    json.BeginArray("experts");
    for (const std::vector<std::uint32_t>& experts : layer.experts) {
      json.BeginArray();
      for (const std::uint32_t expert : experts) json.Uint(expert);
      json.EndArray();
    }
    json.EndArray();
    json.BeginArray("margins");
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
  json.BeginArray("generated");
  for (const std::vector<std::uint32_t>& tokens : report.generated) {
    json.BeginArray();
    for (const std::uint32_t token : tokens) json.Uint(token);
    json.EndArray();
  }
  json.EndArray();
}

void TopMember(formats::JsonWriter& json, const ForwardReport& report) {
  json.BeginArray("top");
  for (const std::vector<convert::NextToken>& best : report.top) {
    json.BeginArray();
    for (const convert::NextToken& next : best) {
      json.BeginObject();
      json.Uint("token", next.token);
      json.Double("logit", next.logit);
      json.EndObject();
    }
    json.EndArray();
  }
  json.EndArray();
}

}  // namespace

VerifyReport ForwardVerifyReport(const convert::ForwardRequest& request,
                                 const convert::ForwardLimits& limits, bool all,
                                 const ForwardReport& run) {
  const auto held = std::make_shared<const ForwardReport>(run);
  const ForwardReport& ran = *held;
  VerifyReport report;
  report.input = request.input.string();
  report.directory = ran.directory;
  report.verification.check = "forward";
  report.title = "Ran " + formats::ShownPath(request.input);
  report.good = "every weight that was met is finite";
  if (ran.comparison) {
    report.title += " and " + formats::ShownPath(request.other);
    report.good = limits.any() ? "the outputs are within the limits"
                               : "every weight that was met has the same values, and the "
                                 "outputs are the same";
    report.verification.findings = convert::JudgeComparison(*ran.comparison, limits);
  }
  if (!ran.comparison && ran.ranks) {
    report.good = "every weight that was met is finite, and all ranks have the same copies of it";
    report.verification.findings = convert::JudgeCopies(ran.rank_differences);
  }
  if (ran.against) {
    report.title += " against " + ran.against->file;
    report.good = "every module that was compared gives the same output";
    const formats::Findings found =
        convert::JudgeDump(*ran.against, MaxNmseOf(*ran.against, limits));
    report.verification.findings.insert(report.verification.findings.end(), found.begin(),
                                        found.end());
  }
  report.passes = report.verification.Passes(false);
  report.lines.emplace_back("model", fmt::format("{}, {}", Printable(ran.model_type),
                                                 FormatCountOf(ran.layers, "layer")));
  AppendRankLines(ran, report.lines);
  report.lines.emplace_back("tokens", fmt::format("{} in {}", FormatCount(ran.tokens),
                                                  FormatCountOf(ran.sequences, "sequence")));
  if (ran.experts > 0) {
    report.lines.emplace_back("experts", ExpertsText(ran));
  }
  report.lines.emplace_back("read", FormatBytes(ran.bytes_read));
  if (ran.perplexity) {
    report.lines.emplace_back("perplexity", fmt::format("{:.6g}", *ran.perplexity));
  }
  for (std::size_t s = 0; s < ran.generated.size(); ++s) {
    report.lines.emplace_back("generated", fmt::format("{}", fmt::join(ran.generated[s], ",")));
  }
  if (ran.comparison) AppendComparisonLines(*ran.comparison, report.lines);
  if (ran.against) AppendDumpLines(*ran.against, all, report.lines);
  const std::string dump =
      ran.against ? DumpText(*ran.against, MaxNmseOf(*ran.against, limits), all) : "";
  for (const std::string& part : {TopText(ran), RoutingText(ran, all), dump}) {
    if (!report.detail.empty() && !part.empty()) report.detail += "\n";
    report.detail += part;
  }
  report.members = [held, request, limits, &ran](formats::JsonWriter& json) {
    StringOrNullMember(json, "other", request.other.string());
    StringMember(json, "weights", WordOf(WeightChoices(), request.weights));
    StringMember(json, "activations", WordOf(ActivationChoices(), request.activations));
    StringMember(json, "attention", WordOf(AttentionChoices(), request.attention));
    RanksMember(json, ran);
    json.Uint("sequences", ran.sequences);
    json.Uint("tokens", ran.tokens);
    json.Uint("bytes_read", ran.bytes_read);
    json.Uint("experts", ran.experts);
    json.Uint("experts_read", ran.experts_read);
    json.Uint("experts_not_met", ran.experts - ran.experts_read);
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
    DumpMember(json, ran.against ? &*ran.against : nullptr, limits);
  };
  return report;
}

}  // namespace dsv3::cli
