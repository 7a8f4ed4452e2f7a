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
  json.Key("topology");
  json.BeginObject();
  UintMember(json, "world_size", topology.world_size());
  UintMember(json, "tp", topology.tp);
  UintMember(json, "ep", topology.ep);
  UintMember(json, "dp", topology.dp);
  UintMember(json, "pp", topology.pp);
  UintMember(json, "moe_tp", topology.moe_tp);
  UintMember(json, "dense_tp", topology.dense_tp);
  UintMember(json, "shared_expert_tp", topology.shared_expert_tp);
  UintMember(json, "embed_tp", topology.embed_tp);
  UintMember(json, "layers", topology.layers);
  UintMember(json, "experts", topology.experts);
  UintMember(json, "redundant_experts", topology.redundant_experts);
  json.EndObject();
}

void RankMember(JsonWriter& json, const RankReport& rank) {
  json.BeginObject();
  UintMember(json, "rank", rank.rank.rank);
  UintMember(json, "stage", rank.rank.stage);
  UintMember(json, "tp_rank", rank.rank.tp_rank);
  UintMember(json, "dp_rank", rank.rank.dp_rank);
  UintMember(json, "ep_rank", rank.rank.ep_rank);
  UintMember(json, "moe_tp_rank", rank.rank.moe_tp_rank);
  UintMember(json, "bytes", rank.bytes);
  UintMember(json, "parameters", rank.parameters);
  UintMember(json, "experts", rank.experts);
  json.Key("bytes_by_kind");
  json.BeginObject();
  for (std::size_t kind = 0; kind < convert::kModuleKinds; ++kind) {
    UintMember(json, ModuleKindName(static_cast<convert::ModuleKind>(kind)),
               rank.bytes_by_kind[kind]);
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
    json.Key(key);
    json.BeginObject();
    UintMember(json, "rank", rank.rank.rank);
    UintMember(json, "bytes", rank.bytes);
    UintMember(json, "parameters", rank.parameters);
    json.EndObject();
  };
  json.BeginObject();
  end("largest", report.ranks[balance.largest]);
  end("smallest", report.ranks[balance.smallest]);
  DoubleMember(json, "mean_bytes", balance.mean_bytes);
  UintMember(json, "total_bytes", balance.total_bytes);
  DoubleMember(json, "imbalance", balance.imbalance);
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
  json.Key("ranks");
  json.BeginArray();
  for (const RankReport& rank : report.ranks) RankMember(json, rank);
  json.EndArray();
  UintMember(json, "first_moe_layer", report.first_moe_layer);
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
  BoolMember(json, "original", report.original);
  StringsMember(json, "differences", report.differences);
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
