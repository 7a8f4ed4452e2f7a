#include "cli/forward_comparison_report.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/json_members.h"
#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {
namespace {

using convert::ForwardComparisonReport;
using convert::ModuleDifference;
using Sizes = formats::RankLayout::Sizes;

Option Limit(std::string name, std::optional<double>* target, std::string help) {
  // RealNumber checks the text.
  Option option = RealNumber(std::move(name), "X", nullptr, std::move(help));
  option.set = [target](const std::string& text) {
    double value = 0;
    RealNumber("", "", &value, "").set(text);
    *target = value;
  };
  return option;
}

void OptionalMember(formats::JsonWriter& json, std::string_view key,
                    const std::optional<double>& value) {
  json.Key(key);
  if (value) {
    json.Double(*value);
  } else {
    json.Null();
  }
}

void LogitsMember(formats::JsonWriter& json, std::string_view key,
                  const convert::LogitFigures& logits) {
  json.BeginObject(key);
  json.Double("nmse", logits.nmse);
  json.Double("cosine", logits.cosine);
  json.Double("max_abs", logits.max_abs);
  json.Double("kl_mean", logits.kl_mean);
  json.Double("kl_max", logits.kl_max);
  json.Double("top1_agreement", logits.top1_agreement);
  OptionalMember(json, "perplexity", logits.perplexity);
  OptionalMember(json, "other_perplexity", logits.other_perplexity);
  json.EndObject();
}

void GeneratedMember(formats::JsonWriter& json, const convert::GeneratedComparison& generated) {
  json.BeginObject("generated");
  json.BeginArray("tokens");
  for (const std::vector<std::uint32_t>& tokens : generated.tokens) {
    json.BeginArray();
    for (const std::uint32_t token : tokens) json.Uint(token);
    json.EndArray();
  }
  json.EndArray();
  json.Double("agreement", generated.agreement);
  json.Key("first_difference");
  if (generated.first) {
    json.BeginObject();
    json.Uint("sequence", generated.first->sequence);
    json.Uint("position", generated.first->position);
    json.Uint("token", generated.first->token);
    json.Uint("other_token", generated.first->other_token);
    json.EndObject();
  } else {
    json.Null();
  }
  json.EndObject();
}

void FiguresMember(formats::JsonWriter& json, const ForwardComparisonReport& report) {
  json.BeginObject("comparison");
  LogitsMember(json, "logits", report.logits);
  if (report.mtp_logits) {
    LogitsMember(json, "mtp_logits", *report.mtp_logits);
  } else {
    json.Null("mtp_logits");
  }
  if (report.generated) {
    GeneratedMember(json, *report.generated);
  } else {
    json.Null("generated");
  }
  json.BeginArray("top1_differences");
  for (const convert::Top1Difference& row : report.top1_differences) {
    json.BeginObject();
    json.Uint("sequence", row.sequence);
    json.Uint("position", row.position);
    json.Uint("token", row.token);
    json.Uint("other_token", row.other_token);
    json.Double("margin", row.margin);
    json.Double("other_margin", row.other_margin);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("layers");
  for (const ForwardComparisonReport::Layer& layer : report.layers) {
    json.BeginObject();
    json.Uint("layer", layer.layer);
    json.Double("nmse", layer.nmse);
    json.Double("cosine", layer.cosine);
    json.EndObject();
  }
  json.EndArray();
  json.BeginObject("routing");
  json.Uint("choices", report.choices);
  json.Uint("differing", report.differing);
  OptionalMember(json, "smallest_margin", report.smallest_margin);
  json.EndObject();
  OptionalMember(json, "bf16_nmse", report.bf16_nmse);
  json.EndObject();
}

void WriteDifference(formats::JsonWriter& json, const ModuleDifference& difference) {
  json.BeginObject();
  StringMember(json, "module", difference.module);
  UintOrNullMember(json, "layer", difference.layer);
  StringOrNullMember(json, "tensor", difference.tensor);
  UintOrNullMember(json, "rank", difference.rank);
  OptionalMember(json, "nmse", difference.nmse);
  OptionalMember(json, "cosine", difference.cosine);
  StringMember(json, "relation", convert::RelationName(difference.relation));
  OptionalMember(json, "factor", difference.factor);
  StringsMember(json, "config", difference.config);
  json.EndObject();
}

// `kind` begins the labels: "MTP ".
void AppendLogitLines(const convert::LogitFigures& logits, const std::string& kind,
                      std::vector<std::pair<std::string, std::string>>& lines) {
  lines.emplace_back(kind + "logits",
                     fmt::format("NMSE {:.3g}, smallest cosine {:.9f}, largest difference {:.3g}",
                                 logits.nmse, logits.cosine, logits.max_abs));
  lines.emplace_back(kind + "KL", fmt::format("{:.3g} nats in the mean, {:.3g} at most",
                                              logits.kl_mean, logits.kl_max));
  lines.emplace_back(kind + "best token",
                     fmt::format("the same in {:.4g} % of the rows", 100 * logits.top1_agreement));
}

}  // namespace

void AppendLimitOptions(convert::ForwardLimits* limits, std::vector<Option>& table) {
  Option nmse = Limit("max-nmse", &limits->max_nmse,
                      "Of two models: accept logits with a normalised squared error of at most X, "
                      "or with bf16 of what MODEL itself loses where its activations are BF16. "
                      "With a limit the limits alone decide. With --against: what the output of a "
                      "module may have, by default 1e-10 where the dump is F32, 1e-6 where it is "
                      "F16, and 5e-5 where it is BF16.");
  nmse.choices = {{"bf16", "what MODEL loses in BF16"}};
  nmse.open = true;
  const auto set_number = nmse.set;
  nmse.set = [limits, set_number](const std::string& text) {
    limits->max_nmse_is_bf16 = text == "bf16";
    limits->max_nmse.reset();
    if (limits->max_nmse_is_bf16) return;
    try {
      set_number(text);
    } catch (const BadValue&) {
      throw BadValue("give a number that is not negative, such as 1e-4, or bf16");
    }
  };
  table.push_back(std::move(nmse));
  table.push_back(Limit("max-kl", &limits->max_kl,
                        "Of two models: accept a mean KL divergence of at most X nats."));
  table.push_back(Limit("min-cosine", &limits->min_cosine,
                        "Of two models: accept rows of logits whose cosine is at least X."));
  table.push_back(Limit("min-top1", &limits->min_top1,
                        "Of two models: accept one best token in at least this share of the rows, "
                        "such as 0.99."));
}

void AppendComparisonLines(const ForwardComparisonReport& report,
                           std::vector<std::pair<std::string, std::string>>& lines) {
  const convert::LogitFigures& logits = report.logits;
  AppendLogitLines(logits, "", lines);
  if (logits.other_perplexity) {
    lines.emplace_back("OTHER's perplexity", fmt::format("{:.6g}", *logits.other_perplexity));
  }
  const auto first = std::find_if(
      report.layers.begin(), report.layers.end(),
      [](const ForwardComparisonReport::Layer& layer) { return layer.nmse > convert::kSameNmse; });
  if (first != report.layers.end()) {
    lines.emplace_back("stream", fmt::format("NMSE {:.3g} behind layer {}, {:.3g} behind the last",
                                             first->nmse, first->layer, report.layers.back().nmse));
  }
  if (report.choices > 0) {
    std::string text = fmt::format("{} of {} choices of experts differ",
                                   FormatCount(report.differing), FormatCount(report.choices));
    if (report.smallest_margin) {
      text += fmt::format("; the smallest margin is {:.3g}", *report.smallest_margin);
    }
    lines.emplace_back("routing", text);
  }
  if (report.mtp_logits) AppendLogitLines(*report.mtp_logits, "MTP ", lines);
  if (report.generated) {
    lines.emplace_back("OTHER generated",
                       fmt::format("{}; {:.4g} % of the tokens are the same",
                                   fmt::join(report.generated->tokens.front(), ","),
                                   100 * report.generated->agreement));
  }
  if (report.bf16_nmse) {
    lines.emplace_back("in BF16", fmt::format("MODEL itself loses NMSE {:.3g}", *report.bf16_nmse));
  }
}

void AppendRankLines(const convert::ForwardReport& report,
                     std::vector<std::pair<std::string, std::string>>& lines) {
  const auto append = [&](const char* name, const std::optional<Sizes>& sizes) {
    if (!sizes) return;
    lines.emplace_back(name,
                       fmt::format("{}: TP {}, EP {}, DP {}, PP {}", FormatCount(sizes->world_size),
                                   sizes->tp, sizes->ep, sizes->dp, sizes->pp));
  };
  append("ranks", report.ranks);
  if (report.comparison) append("OTHER's ranks", report.comparison->ranks);
}

void RanksMember(formats::JsonWriter& json, const convert::ForwardReport& report) {
  json.Key("ranks");
  std::optional<Sizes> sizes = report.ranks;
  if (!sizes && report.comparison) sizes = report.comparison->ranks;
  if (!sizes) return json.Null();
  json.BeginObject();
  json.Uint("world_size", sizes->world_size);
  json.Uint("tp", sizes->tp);
  json.Uint("ep", sizes->ep);
  json.Uint("dp", sizes->dp);
  json.Uint("pp", sizes->pp);
  json.Uint("moe_tp", sizes->moe_tp);
  json.Uint("dense_tp", sizes->dense_tp);
  json.Uint("shared_expert_tp", sizes->shared_expert_tp);
  json.Uint("embed_tp", sizes->embed_tp);
  json.Uint("redundant_experts", sizes->redundant_experts);
  json.EndObject();
}

void ComparisonMembers(formats::JsonWriter& json, const convert::ForwardReport& report) {
  if (report.comparison) {
    FiguresMember(json, *report.comparison);
  } else {
    json.Null("comparison");
  }
  const std::vector<ModuleDifference>& differences =
      report.comparison ? report.comparison->differences : report.rank_differences;
  json.BeginArray("differences");
  for (const ModuleDifference& difference : differences) WriteDifference(json, difference);
  json.EndArray();
  json.Key("first_difference");
  if (differences.empty()) {
    json.Null();
  } else {
    WriteDifference(json, differences.front());
  }
}

}  // namespace dsv3::cli
