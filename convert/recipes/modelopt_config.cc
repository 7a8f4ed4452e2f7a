#include "convert/recipes/modelopt_config.h"

#include <set>

#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

void Text(JsonWriter& json, std::string_view key, std::string_view value) {
  json.Key(key);
  json.String(value);
}

// "layers.3.ffn.experts" for the module of one of these experts.
std::string BankOf(const std::string& module) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t experts = module.find(kExperts);
  return experts == std::string::npos ? module : module.substr(0, experts + kExperts.size() - 1);
}

void AddLayers(const ModelOptConfig& config, JsonWriter& json) {
  std::set<std::string> banks;
  for (const std::string& module : config.nvfp4) banks.insert(BankOf(module));
  json.Key("quantized_layers");
  json.BeginObject();
  for (const std::string& bank : banks) {
    json.Key(bank);
    json.BeginObject();
    Text(json, "quant_algo", "NVFP4");
    json.Key("group_size");
    json.Uint(config.group_size);
    json.EndObject();
  }
  json.EndObject();
}

}  // namespace

std::string HfQuantConfigText(const ModelOptConfig& config) {
  JsonWriter json(4);
  json.BeginObject();
  json.Key("producer");
  json.BeginObject();
  Text(json, "name", "modelopt");
  Text(json, "version", "0.47.0");
  json.EndObject();
  json.Key("quantization");
  json.BeginObject();
  Text(json, "quant_algo", config.quant_algo);
  json.Key("kv_cache_quant_algo");
  if (config.cache.empty()) {
    json.Null();
  } else {
    json.String(config.cache);
  }
  json.Key("group_size");
  json.Uint(config.group_size);
  if (!config.nvfp4.empty()) AddLayers(config, json);
  json.Key("exclude_modules");
  json.BeginArray();
  for (const std::string& module : config.exclude_modules) json.String(module);
  json.EndArray();
  json.EndObject();
  json.EndObject();
  return json.Take();
}

}  // namespace dsv3::convert
