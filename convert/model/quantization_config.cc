#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "convert/model/config_fields-inl.h"

namespace dsv3::convert {
namespace {

using Json = ConfigFields::Json;

constexpr std::string_view kCompressedTensors = "compressed-tensors";
constexpr std::string_view kAwq = "awq";

// [128, 128] for "128x128"; null for anything else.
Json BlockFromText(const std::string& text) {
  const char* const end = text.data() + text.size();
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  const auto [separator, row_error] = std::from_chars(text.data(), end, rows);
  if (row_error != std::errc() || separator == end || *separator != 'x') return nullptr;
  const auto [rest, col_error] = std::from_chars(separator + 1, end, cols);
  if (col_error != std::errc() || rest != end) return nullptr;
  return Json::array({rows, cols});
}

// Rows and columns of blocks under `name`.
std::optional<quant::BlockShape> ParseBlock(const ConfigFields& fields, const char* name,
                                            bool text_too) {
  const Json* value = fields.Find(name);
  if (value == nullptr || value->is_null()) return std::nullopt;
  Json from_text;
  if (value->is_string() && text_too) {
    from_text = BlockFromText(value->get_ref<const std::string&>());
    value = &from_text;
  }
  const auto is_size = [](const Json& v) {
    return v.is_number_unsigned() && v.get<std::uint64_t>() > 0 &&
           v.get<std::uint64_t>() <= kMaxDimension;
  };
  if (!value->is_array() || value->size() != 2 || !is_size((*value)[0]) || !is_size((*value)[1])) {
    fields.Wrong(name, "two positive integers, such as [128, 128],", *fields.Find(name));
  }
  return quant::BlockShape{(*value)[0].get<std::uint64_t>(), (*value)[1].get<std::uint64_t>()};
}

std::vector<std::string> ParseStrings(const ConfigFields& fields, const char* name) {
  const Json* value = fields.Find(name);
  if (value == nullptr || value->is_null()) return {};
  if (!value->is_array() || !std::all_of(value->begin(), value->end(),
                                         [](const Json& item) { return item.is_string(); })) {
    fields.Wrong(name, "an array of strings", *value);
  }
  return value->get<std::vector<std::string>>();
}

// Both lists mean the same; vLLM's quantisers write ignored_layers.
void ParseModuleLists(const ConfigFields& fields, QuantizationConfig& config) {
  constexpr const char* kUsual = "modules_to_not_convert";
  std::vector<std::string>& modules = config.modules_to_not_convert;
  for (const char* const name : {"ignored_layers", kUsual}) {
    const Json* value = fields.Find(name);
    if (value == nullptr || value->is_null()) continue;
    config.module_lists.emplace_back(name);
    for (std::string& module : ParseStrings(fields, name)) {
      if (std::find(modules.begin(), modules.end(), module) != modules.end()) continue;
      modules.push_back(std::move(module));
    }
  }
  if (config.module_lists.empty()) config.module_lists.emplace_back(kUsual);
}

// A group_size of -1 stands for whole rows.
void ParseStrategy(const ConfigFields& weights, QuantizationGroup& group) {
  const Json* size = weights.Find("group_size");
  const bool whole_rows = size != nullptr && *size == -1;
  group.group_size = whole_rows ? 0 : weights.Count("group_size", 0);
  group.strategy = weights.String("strategy");
  if (!group.strategy.empty()) return;
  // The strategy that compressed-tensors assumes where none is given.
  group.strategy = whole_rows ? "channel" : group.group_size > 0 ? "group" : "tensor";
}

void ParseGroups(const ConfigFields& fields, const std::string& file, const std::string& path,
                 QuantizationConfig& config) {
  constexpr const char* kName = "config_groups";
  const Json* groups = fields.Find(kName);
  if (groups == nullptr || groups->is_null()) return;
  if (!groups->is_object()) fields.Wrong(kName, "an object", *groups);
  const ConfigFields group_fields(*groups, file, fmt::format("{}{}.", path, kName),
                                  /*strict=*/true);
  for (const auto& [name, value] : groups->items()) {
    if (!value.is_object()) group_fields.Wrong(name.c_str(), "an object", value);
    const std::string group_path = fmt::format("{}{}.{}.", path, kName, name);
    const ConfigFields outer(value, file, group_path, /*strict=*/true);
    const Json* weights = outer.Find("weights");
    if (weights == nullptr || weights->is_null()) continue;
    if (!weights->is_object()) outer.Wrong("weights", "an object", *weights);
    const ConfigFields inner(*weights, file, group_path + "weights.", /*strict=*/true);
    QuantizationGroup group;
    group.name = name;
    group.format = outer.String("format");
    if (group.format.empty()) group.format = config.format;
    group.num_bits = inner.Count("num_bits", 8);
    group.type = inner.String("type");
    if (group.type.empty()) group.type = "int";
    group.block_structure = ParseBlock(inner, "block_structure", /*text_too=*/true);
    const Json* symmetric = inner.Find("symmetric");
    group.symmetric = symmetric == nullptr || *symmetric != false;
    ParseStrategy(inner, group);
    config.groups.push_back(std::move(group));
  }
}

// AWQ has one group, whose format is the way in which codes lie: "gemm" where nothing is said.
void ParseAwq(const ConfigFields& fields, QuantizationConfig& config) {
  if (fields.Find("group_size") == nullptr) return;
  QuantizationGroup group;
  group.name = config.member;
  group.num_bits = fields.Count("bits", 4);
  group.type = "int";
  group.symmetric = false;
  ParseStrategy(fields, group);
  if (group.group_size == 0 && group.strategy != "channel") return;
  // transformers 5 calls it "format".
  for (const char* const name : {"version", "format"}) {
    if (group.format.empty()) group.format = fields.String(name);
  }
  for (char& c : group.format) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  config.groups.push_back(std::move(group));
}

std::optional<QuantizationConfig> ParseQuantizationMember(const ConfigFields& outer,
                                                          const std::string& file,
                                                          const std::string& path,
                                                          const char* name) {
  const Json* value = outer.Find(name);
  if (value == nullptr || value->is_null()) return std::nullopt;
  if (!value->is_object()) outer.Wrong(name, "an object", *value);
  const std::string inner_path = fmt::format("{}{}.", path, name);
  const ConfigFields fields(*value, file, inner_path, /*strict=*/true);
  QuantizationConfig config;
  config.member = name;
  config.quant_method = fields.String("quant_method");
  config.fmt = fields.String("fmt");
  config.weight_block_size = ParseBlock(fields, "weight_block_size", /*text_too=*/false);
  config.scale_fmt = fields.String("scale_fmt");
  ParseModuleLists(fields, config);
  config.quant_algo = fields.String("quant_algo");
  return config;
}

}  // namespace

std::optional<QuantizationConfig> ParseQuantization(const Json& object, const ConfigFields& outer,
                                                    const std::string& file,
                                                    const std::string& path) {
  const char* name = "quantization_config";
  std::optional<QuantizationConfig> config = ParseQuantizationMember(outer, file, path, name);
  if (!config) {
    name = "compression_config";
    config = ParseQuantizationMember(outer, file, path, name);
    if (config && config->quant_method.empty()) config->quant_method = kCompressedTensors;
  }
  if (!config) return std::nullopt;
  const std::string inner_path = fmt::format("{}{}.", path, name);
  const ConfigFields fields(object.at(name), file, inner_path, /*strict=*/true);
  if (config->quant_method == kAwq) ParseAwq(fields, *config);
  if (config->quant_method == kCompressedTensors) {
    config->format = fields.String("format");
    config->ignore = ParseStrings(fields, "ignore");
    ParseGroups(fields, file, inner_path, *config);
  }
  return config;
}

}  // namespace dsv3::convert
