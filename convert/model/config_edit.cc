#include "convert/model/config_edit.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/json/json_reader.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

// Appends the next value, and each member and element on a line of its own as Python's
// json.dumps(indent=2) does; `indent` is that of the value's own line. Scalars stay as they are
// spelled.
void AppendIndented(formats::JsonReader& reader, std::size_t indent, std::string& out) {
  constexpr std::size_t kStep = 2;
  const formats::JsonType type = reader.Peek();
  const bool is_object = type == formats::JsonType::kObject;
  if (!is_object && type != formats::JsonType::kArray) {
    out += reader.SkipValue();
    return;
  }
  out += is_object ? '{' : '[';
  bool first = true;
  const auto begin_line = [&] {
    out += first ? "\n" : ",\n";
    out.append(indent + kStep, ' ');
    first = false;
  };
  if (is_object) {
    reader.BeginObject();
    while (const auto key = reader.NextMember()) {
      begin_line();
      formats::AppendJsonString(out, *key);
      out += ": ";
      AppendIndented(reader, indent + kStep, out);
    }
  } else {
    reader.BeginArray();
    while (reader.NextElement()) {
      begin_line();
      AppendIndented(reader, indent + kStep, out);
    }
  }
  if (!first) out.append(1, '\n').append(indent, ' ');
  out += is_object ? '}' : ']';
}

std::string Indented(const std::string& json, std::size_t indent) {
  formats::JsonReader reader(json, {.file = kConfigName, .part = "the new value", .advice = ""});
  reader.AllowPythonNumbers(true);
  std::string lines;
  AppendIndented(reader, indent, lines);
  reader.End();
  return lines;
}

// Cuts off what a list of layers has behind those of the main ones.
void CutLayerList(const ModelConfig& config, std::string_view field, std::string& config_text) {
  const std::string member = config.prefix + std::string(field);
  const std::optional<std::string> text = formats::JsonMember(config_text, member, kConfigName);
  if (!text) return;
  nlohmann::json list = nlohmann::json::parse(*text, nullptr, false);
  const std::size_t layers = config.num_hidden_layers;
  if (list.is_string() && list.get_ref<const std::string&>().size() > layers) {
    list = list.get_ref<const std::string&>().substr(0, layers);
  } else if (list.is_array() && list.size() > layers) {
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(layers), list.end());
  } else {
    return;
  }
  config_text = SetConfigMember(config_text, member, list.dump());
}

std::string ParentOf(const std::string& member) {
  const std::size_t slash = member.rfind('/');
  return slash == std::string::npos ? "" : member.substr(0, slash);
}

}  // namespace

std::string SetConfigMember(const std::string& config_text, const std::string& member,
                            const std::string& json) {
  const std::string parent = ParentOf(member);
  const bool has_lines = config_text.find('\n') != std::string::npos;
  const auto depth = static_cast<std::size_t>(std::count(member.begin(), member.end(), '/'));
  std::string value = json;
  if (has_lines && value.find('\n') == std::string::npos) {
    value = Indented(json, 2 * (depth + 1));
  }
  if (formats::JsonMember(config_text, member, kConfigName)) {
    return formats::ReplaceJsonMember(config_text, member, value, kConfigName);
  }
  if (parent.empty()) return formats::AppendJsonMember(config_text, member, value, kConfigName);
  const std::optional<std::string> object = formats::JsonMember(config_text, parent, kConfigName);
  if (!object || !object->starts_with('{')) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is no object {} to hold {}; the config belongs to another "
                            "model than the manifest beside it",
                            kConfigName, QuoteForMessage(parent), QuoteForMessage(member)),
                {kConfigName, ""});
  }
  return formats::ReplaceJsonMember(
      config_text, parent,
      formats::AppendJsonMember(*object, member.substr(parent.size() + 1), value, kConfigName),
      kConfigName);
}

void SetConfigNumber(const ModelConfig& config, std::string_view field, std::uint64_t value,
                     std::string& config_text) {
  const std::string member = config.prefix + std::string(field);
  const std::string number = std::to_string(value);
  const std::optional<std::string> now = formats::JsonMember(config_text, member, kConfigName);
  if (now == number || (value == 0 && !now)) return;
  config_text = SetConfigMember(config_text, member, number);
}

RemovedConfig SetConfigDtype(const ModelConfig& config, std::string_view dtype,
                             std::string& config_text) {
  const std::string value = fmt::format("\"{}\"", dtype);
  // Multimodal configs nest the language model's fields; either level may carry either member.
  std::vector<std::string> prefixes = {""};
  if (!config.prefix.empty()) prefixes.push_back(config.prefix);
  RemovedConfig replaced;
  bool is_said = false;
  for (const std::string& prefix : prefixes) {
    for (const std::string_view key : {"torch_dtype", "dtype"}) {
      const std::string member = prefix + std::string(key);
      std::optional<std::string> before = formats::JsonMember(config_text, member, kConfigName);
      if (!before) continue;
      is_said = true;
      if (*before == value) continue;
      config_text = formats::ReplaceJsonMember(config_text, member, value, kConfigName);
      replaced.emplace_back(member, *std::move(before));
    }
  }
  if (!is_said) config_text = SetConfigMember(config_text, "torch_dtype", value);
  return replaced;
}

std::string ConfigForBf16(const std::string& config_text, const ModelConfig& config,
                          RemovedConfig& removed) {
  std::string text = config_text;
  // Multimodal configs nest the language model's fields; either level may carry any of these.
  std::vector<std::string> prefixes = {""};
  if (!config.prefix.empty()) prefixes.push_back(config.prefix);
  for (const std::string& prefix : prefixes) {
    for (const std::string_view key :
         {"quantization_config", "compression_config", "expert_dtype"}) {
      const std::string path = prefix + std::string(key);
      if (auto value = formats::JsonMember(text, path, kConfigName)) {
        removed.emplace_back(path, std::move(*value));
        text = formats::RemoveJsonMember(text, path, kConfigName);
      }
    }
  }
  for (auto& member : SetConfigDtype(config, "bfloat16", text)) {
    removed.push_back(std::move(member));
  }
  return text;
}

void SetMtpLayers(const ModelConfig& config, std::uint64_t layers, std::string& config_text) {
  for (const std::string_view list :
       {"mlp_layer_types", "moe_layer_freq", "indexer_types", "index_topk_pattern"}) {
    CutLayerList(config, list, config_text);
  }
  SetConfigNumber(config, kMtpField, layers, config_text);
}

void EditModuleLists(const ModelConfig& config,
                     const std::function<void(std::vector<std::string>& modules)>& edit,
                     std::string& config_text) {
  if (!config.quantization) return;
  std::vector<std::string> lists = config.quantization->module_lists;
  // Of compressed-tensors, which has no other list.
  if (!config.quantization->groups.empty()) lists = {"ignore"};
  for (const std::string& list : lists) {
    const std::string member = config.quantization->member + '/' + list;
    std::vector<std::string> modules;
    if (const auto text = formats::JsonMember(config_text, member, kConfigName)) {
      const nlohmann::json entries = nlohmann::json::parse(*text, nullptr, false);
      const bool strings =
          entries.is_array() && std::all_of(entries.begin(), entries.end(),
                                            [](const nlohmann::json& e) { return e.is_string(); });
      if (!strings && !entries.is_null()) continue;
      if (strings) modules = entries.get<std::vector<std::string>>();
    }
    const std::vector<std::string> before = modules;
    edit(modules);
    if (modules == before) continue;
    config_text = SetConfigMember(config_text, member, nlohmann::json(modules).dump());
  }
}

}  // namespace dsv3::convert
