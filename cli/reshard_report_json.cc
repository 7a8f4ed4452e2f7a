#include <string>
#include <vector>

#include "cli/conversion_report.h"
#include "cli/expert_load_report.h"
#include "cli/json_members.h"
#include "cli/rank_balance.h"
#include "cli/reshard_report.h"

namespace dsv3::cli {

namespace {

using convert::RankReport;
using convert::ReshardReport;
using formats::JsonWriter;

std::string_view FormatName(convert::RankFormat format) {
  switch (format) {
    case convert::RankFormat::kDeepseek:
      return "deepseek";
    case convert::RankFormat::kKeys:
      return "keys";
    case convert::RankFormat::kHfRank:
      break;
  }
  return "hf-rank";
}

void TopologyMember(JsonWriter& json, const convert::Topology& topology) {
  json.BeginObject("topology");
  json.Uint("world_size", topology.world_size());
  json.Uint("tp", topology.tp);
  json.Uint("ep", topology.ep);
  json.Uint("dp", topology.dp);
  json.Uint("pp", topology.pp);
  json.Uint("moe_tp", topology.moe_tp);
  json.Uint("dense_tp", topology.dense_tp);
  json.Uint("shared_expert_tp", topology.shared_expert_tp);
  json.Uint("embed_tp", topology.embed_tp);
  json.Uint("layers", topology.layers);
  json.Uint("experts", topology.experts);
  json.Uint("redundant_experts", topology.redundant_experts);
  json.EndObject();
}

void RankMember(JsonWriter& json, const RankReport& rank) {
  json.BeginObject();
  json.Uint("rank", rank.rank.rank);
  json.Uint("stage", rank.rank.stage);
  json.Uint("tp_rank", rank.rank.tp_rank);
  json.Uint("dp_rank", rank.rank.dp_rank);
  json.Uint("ep_rank", rank.rank.ep_rank);
  json.Uint("moe_tp_rank", rank.rank.moe_tp_rank);
  json.Uint("bytes", rank.bytes);
  json.Uint("parameters", rank.parameters);
  json.Uint("experts", rank.experts);
  json.BeginObject("bytes_by_kind");
  for (std::size_t kind = 0; kind < convert::kModuleKinds; ++kind) {
    json.Uint(ModuleKindName(static_cast<convert::ModuleKind>(kind)), rank.bytes_by_kind[kind]);
  }
  json.EndObject();
  StringsMember(json, "files", rank.files);
  json.EndObject();
}

void BalanceMember(JsonWriter& json, const ReshardReport& report) {
  json.Key("balance");
  if (report.ranks.empty()) return json.Null();
  const RankBalance balance = BalanceOf(report);
  const auto end = [&](std::string_view key, const RankReport& rank) {
    json.BeginObject(key);
    json.Uint("rank", rank.rank.rank);
    json.Uint("bytes", rank.bytes);
    json.Uint("parameters", rank.parameters);
    json.EndObject();
  };
  json.BeginObject();
  end("largest", report.ranks[balance.largest]);
  end("smallest", report.ranks[balance.smallest]);
  json.Double("mean_bytes", balance.mean_bytes);
  json.Uint("total_bytes", balance.total_bytes);
  json.Double("imbalance", balance.imbalance);
  json.EndObject();
}

void ExpertMapMember(JsonWriter& json, const ReshardReport& report) {
  json.Key("expert_map");
  if (report.expert_map.empty()) return json.Null();
  json.BeginArray();
  for (const auto& layer : report.expert_map) {
    // A layer is a line.
    JsonWriter line(0);
    line.BeginArray();
    for (const std::uint32_t expert : layer) line.Uint(expert);
    line.EndArray();
    json.Raw(line.text());
  }
  json.EndArray();
}

}  // namespace

std::string ReshardReportJson(const convert::ReshardRequest& request, const ReshardReport& report,
                              std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  ConversionMembers(json, request.input, request.output, report.conversion, tool);
  StringMember(json, "format", FormatName(request.options.format));
  StringMember(
      json, "grouping",
      request.options.grouping == convert::RankGrouping::kComponent ? "component" : "rank");
  TopologyMember(json, report.topology);
  BalanceMember(json, report);
  json.BeginArray("ranks");
  for (const RankReport& rank : report.ranks) RankMember(json, rank);
  json.EndArray();
  json.Uint("first_moe_layer", report.first_moe_layer);
  ExpertMapMember(json, report);
  ExpertLoadMember(json, report);
  StringsMember(json, "replicated_modules", report.replicated_modules);
  StringsMember(json, "bf16_modules", report.bf16_modules);
  json.Key("recut_block");
  if (report.recut_block) {
    json.BeginArray();
    json.Uint(report.recut_block->rows);
    json.Uint(report.recut_block->cols);
    json.EndArray();
  } else {
    json.Null();
  }
  StringsMember(json, "dropped", report.dropped);
  json.EndObject();
  return json.Take() + "\n";
}

std::string MergeReportJson(const convert::JobRequest& request, const convert::MergeReport& report,
                            std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  ConversionMembers(json, request.input, request.output, report.conversion, tool);
  json.Bool("original", report.original);
  StringsMember(json, "differences", report.differences);
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
