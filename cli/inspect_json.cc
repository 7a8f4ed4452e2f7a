#include <string>
#include <string_view>

#include "cli/inspect_gguf.h"
#include "cli/inspect_list.h"
#include "cli/inspect_render.h"
#include "cli/json_members.h"
#include "cli/version.h"
#include "formats/json/json_writer.h"

namespace dsv3::cli {
namespace {

using convert::Inspection;
using convert::ModelConfig;
using convert::Summary;
using convert::SummaryNode;
using convert::ValueStatistics;
using formats::JsonWriter;

std::string_view FormName(formats::CheckpointFiles::Form form) {
  switch (form) {
    case formats::CheckpointFiles::Form::kIndexed:
      return "indexed";
    case formats::CheckpointFiles::Form::kSingle:
      return "single";
    case formats::CheckpointFiles::Form::kUnindexed:
      return "unindexed";
  }
  return "";
}

void WriteNode(JsonWriter& json, const SummaryNode& node) {
  json.BeginObject();
  StringMember(json, "name", node.name);
  json.Uint("tensors", node.tensors);
  json.Uint("parameters", node.parameters);
  json.Uint("bytes", node.bytes);
  if (node.kind == SummaryNode::Kind::kTensor) {
    StringMember(json, "dtype", formats::DtypeName(node.dtype));
    json.Uints("shape", node.shape);
    if (!node.scales.empty()) {
      json.BeginArray("scales");
      for (const auto& scale : node.scales) {
        json.BeginObject();
        StringMember(json, "name", scale.name);
        StringMember(json, "dtype", formats::DtypeName(scale.dtype));
        json.Uints("shape", scale.shape);
        json.EndObject();
      }
      json.EndArray();
    }
  } else {
    json.BeginArray("children");
    for (const SummaryNode& child : node.children) WriteNode(json, child);
    json.EndArray();
  }
  json.EndObject();
}

void ModelMember(JsonWriter& json, const std::optional<ModelConfig>& config) {
  json.Key("model");
  if (!config) return json.Null();
  json.BeginObject();
  StringMember(json, "model_type", config->model_type);
  json.Bool("known", config->known);
  json.Uint("num_hidden_layers", config->num_hidden_layers);
  json.Uint("num_nextn_predict_layers", config->num_nextn_predict_layers);
  json.Uint("n_routed_experts", config->n_routed_experts);
  json.Uint("num_experts_per_tok", config->num_experts_per_tok);
  json.Key("quantization");
  if (!config->quantization) {
    json.Null();
  } else {
    const convert::QuantizationConfig& quantization = *config->quantization;
    json.BeginObject();
    StringOrNullMember(json, "quant_method", quantization.quant_method);
    json.Key("weight_block_size");
    if (quantization.weight_block_size) {
      json.BeginArray();
      json.Uint(quantization.weight_block_size->rows);
      json.Uint(quantization.weight_block_size->cols);
      json.EndArray();
    } else {
      json.Null();
    }
    StringOrNullMember(json, "scale_fmt", quantization.scale_fmt);
    json.EndObject();
  }
  json.EndObject();
}

void RanksMember(JsonWriter& json, const std::optional<formats::RankLayout>& layout) {
  json.Key("ranks");
  if (!layout) return json.Null();
  const formats::RankLayout::Sizes& sizes = layout->sizes;
  json.BeginObject();
  StringMember(json, "format", layout->format);
  StringMember(json, "grouping", layout->grouping);
  json.Uint("world_size", sizes.world_size);
  json.Uint("tp", sizes.tp);
  json.Uint("ep", sizes.ep);
  json.Uint("dp", sizes.dp);
  json.Uint("pp", sizes.pp);
  json.Uint("redundant_experts", sizes.redundant_experts);
  json.BeginArray("bytes");
  for (const formats::LayoutRank& rank : layout->ranks) json.Uint(rank.bytes);
  json.EndArray();
  json.EndObject();
}

void TotalsMembers(JsonWriter& json, const Summary& s) {
  json.Uint("files", s.files);
  json.Uint("file_bytes", s.file_bytes);
  json.Uint("tensors", s.tensors);
  json.Uint("tensor_bytes", s.tensor_bytes);
  json.Uint("parameters", s.parameters);
  UintOrNullMember(json, "activated_parameters", s.activated_parameters);
  json.BeginObject("scales");
  json.Uint("tensors", s.scales);
  json.Uint("elements", s.scale_elements);
  json.Uint("bytes", s.scale_bytes);
  json.EndObject();
  json.BeginObject("mtp");
  json.Uint("tensors", s.mtp_tensors);
  json.Uint("parameters", s.mtp_parameters);
  json.Uint("bytes", s.mtp_bytes);
  json.EndObject();
  json.BeginArray("dtypes");
  for (const auto& total : s.dtypes) {
    json.BeginObject();
    StringMember(json, "dtype", formats::DtypeName(total.dtype));
    json.Uint("tensors", total.tensors);
    json.Uint("elements", total.elements);
    json.Uint("bytes", total.bytes);
    if (total.packed_bytes != 0) json.Uint("packed_bytes", total.packed_bytes);
    json.EndObject();
  }
  json.EndArray();
}

void StatisticsMember(JsonWriter& json, std::string_view key,
                      const std::optional<ValueStatistics>& statistics) {
  json.Key(key);
  if (!statistics) return json.Null();
  const ValueStatistics& s = *statistics;
  json.BeginObject();
  json.Uint("values", s.values);
  json.Uint("finite", s.finite);
  json.Uint("zeros", s.zeros);
  json.Uint("nans", s.nans);
  json.Uint("infinities", s.infinities);
  json.Uint("subnormals", s.subnormals);
  const auto number = [&](std::string_view name, double value) {
    json.Key(name);
    if (s.finite > 0) {
      json.Double(value);
    } else {
      json.Null();
    }
  };
  number("min", s.min);
  number("max", s.max);
  number("absmax", s.absmax);
  number("mean", s.mean);
  number("rms", s.rms);
  json.EndObject();
}

void HeadMembers(JsonWriter& json, const Inspection& inspection, std::string_view tool) {
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "input", inspection.path.string());
}

void TensorMembers(JsonWriter& json, const Inspection& inspection, const MeasuredTensor& measured) {
  PlaceMembers(json, convert::InspectedTensorOf(inspection, measured.position));
  StringOrNullMember(json, "scale", measured.statistics.scale);
  StatisticsMember(json, "stored", measured.statistics.stored);
  StatisticsMember(json, "dequantized", measured.statistics.dequantized);
  StringOrNullMember(json, "note", measured.statistics.note);
}

}  // namespace

std::string InspectionJson(const Inspection& inspection, std::string_view tool) {
  if (inspection.gguf) return GgufJson(inspection, tool);
  JsonWriter json(2);
  json.BeginObject();
  HeadMembers(json, inspection, tool);
  StringMember(json, "form", inspection.ranks ? "ranks" : FormName(inspection.form));
  RanksMember(json, inspection.ranks);
  ModelMember(json, inspection.config);
  json.BeginArray("forms");
  for (const convert::FormCount& form : inspection.forms) {
    json.BeginObject();
    StringMember(json, "name", form.name);
    json.Uint("weights", form.weights);
    json.EndObject();
  }
  json.EndArray();
  TotalsMembers(json, inspection.summary);
  FindingsMember(json, "findings", inspection.findings);
  json.BeginArray("tree");
  for (const SummaryNode& child : inspection.summary.root.children) WriteNode(json, child);
  json.EndArray();
  json.EndObject();
  return json.Take() + "\n";
}

std::string TensorJson(const Inspection& inspection, const MeasuredTensor& measured,
                       std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  HeadMembers(json, inspection, tool);
  TensorMembers(json, inspection, measured);
  FindingsMember(json, "findings", inspection.findings);
  json.EndObject();
  return json.Take() + "\n";
}

std::string TensorsJson(const Inspection& inspection, const std::vector<MeasuredTensor>& measured,
                        std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  HeadMembers(json, inspection, tool);
  json.BeginArray("tensors");
  for (const MeasuredTensor& each : measured) {
    json.BeginObject();
    TensorMembers(json, inspection, each);
    json.EndObject();
  }
  json.EndArray();
  FindingsMember(json, "findings", inspection.findings);
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
