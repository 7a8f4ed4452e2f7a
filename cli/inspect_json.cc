#include <string>
#include <string_view>

#include "cli/inspect_gguf.h"
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
  UintMember(json, "tensors", node.tensors);
  UintMember(json, "parameters", node.parameters);
  UintMember(json, "bytes", node.bytes);
  if (node.kind == SummaryNode::Kind::kTensor) {
    StringMember(json, "dtype", formats::DtypeName(node.dtype));
    ShapeMember(json, "shape", node.shape);
    if (!node.scales.empty()) {
      json.Key("scales");
      json.BeginArray();
      for (const auto& scale : node.scales) {
        json.BeginObject();
        StringMember(json, "name", scale.name);
        StringMember(json, "dtype", formats::DtypeName(scale.dtype));
        ShapeMember(json, "shape", scale.shape);
        json.EndObject();
      }
      json.EndArray();
    }
  } else {
    json.Key("children");
    json.BeginArray();
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
  BoolMember(json, "known", config->known);
  UintMember(json, "num_hidden_layers", config->num_hidden_layers);
  UintMember(json, "num_nextn_predict_layers", config->num_nextn_predict_layers);
  UintMember(json, "n_routed_experts", config->n_routed_experts);
  UintMember(json, "num_experts_per_tok", config->num_experts_per_tok);
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
  UintMember(json, "world_size", sizes.world_size);
  UintMember(json, "tp", sizes.tp);
  UintMember(json, "ep", sizes.ep);
  UintMember(json, "dp", sizes.dp);
  UintMember(json, "pp", sizes.pp);
  UintMember(json, "redundant_experts", sizes.redundant_experts);
  json.Key("bytes");
  json.BeginArray();
  for (const formats::LayoutRank& rank : layout->ranks) json.Uint(rank.bytes);
  json.EndArray();
  json.EndObject();
}

void TotalsMembers(JsonWriter& json, const Summary& s) {
  UintMember(json, "files", s.files);
  UintMember(json, "file_bytes", s.file_bytes);
  UintMember(json, "tensors", s.tensors);
  UintMember(json, "tensor_bytes", s.tensor_bytes);
  UintMember(json, "parameters", s.parameters);
  UintOrNullMember(json, "activated_parameters", s.activated_parameters);
  json.Key("scales");
  json.BeginObject();
  UintMember(json, "tensors", s.scales);
  UintMember(json, "elements", s.scale_elements);
  UintMember(json, "bytes", s.scale_bytes);
  json.EndObject();
  json.Key("mtp");
  json.BeginObject();
  UintMember(json, "tensors", s.mtp_tensors);
  UintMember(json, "parameters", s.mtp_parameters);
  UintMember(json, "bytes", s.mtp_bytes);
  json.EndObject();
  json.Key("dtypes");
  json.BeginArray();
  for (const auto& total : s.dtypes) {
    json.BeginObject();
    StringMember(json, "dtype", formats::DtypeName(total.dtype));
    UintMember(json, "tensors", total.tensors);
    UintMember(json, "elements", total.elements);
    UintMember(json, "bytes", total.bytes);
    if (total.packed_bytes != 0) UintMember(json, "packed_bytes", total.packed_bytes);
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
  UintMember(json, "values", s.values);
  UintMember(json, "finite", s.finite);
  UintMember(json, "zeros", s.zeros);
  UintMember(json, "nans", s.nans);
  UintMember(json, "infinities", s.infinities);
  UintMember(json, "subnormals", s.subnormals);
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
  const convert::InspectedTensor tensor = convert::InspectedTensorOf(inspection, measured.position);
  StringMember(json, "name", tensor.name);
  StringMember(json, "dtype", tensor.type);
  ShapeMember(json, "shape", tensor.shape);
  StringMember(json, "file", tensor.file);
  UintMember(json, "offset", tensor.extent.offset);
  UintMember(json, "bytes", tensor.extent.length);
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
  json.Key("forms");
  json.BeginArray();
  for (const convert::FormCount& form : inspection.forms) {
    json.BeginObject();
    StringMember(json, "name", form.name);
    UintMember(json, "weights", form.weights);
    json.EndObject();
  }
  json.EndArray();
  TotalsMembers(json, inspection.summary);
  FindingsMember(json, "findings", inspection.findings);
  json.Key("tree");
  json.BeginArray();
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
  json.Key("tensors");
  json.BeginArray();
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
