#include "convert/recipes/modelopt_config.h"

#include <set>

#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

// "layers.3.ffn.experts" for the module of one of these experts.
std::string BankOf(const std::string& module) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t experts = module.find(kExperts);
  return experts == std::string::npos ? module : module.substr(0, experts + kExperts.size() - 1);
}

void AddLayers(const ModelOptConfig& config, JsonWriter& json) {
  std::set<std::string> banks;
  for (const std::string& module : config.nvfp4) banks.insert(BankOf(module));
  json.BeginObject("quantized_layers");
  for (const std::string& bank : banks) {
    json.BeginObject(bank);
    json.String("quant_algo", "NVFP4");
    json.Uint("group_size", config.group_size);
    json.EndObject();
  }
  json.EndObject();
}

}  // namespace

std::string HfQuantConfigText(const ModelOptConfig& config) {
  JsonWriter json(4);
  json.BeginObject();
  json.BeginObject("producer");
  json.String("name", "modelopt");
  json.String("version", "0.47.0");
  json.EndObject();
  json.BeginObject("quantization");
  json.String("quant_algo", config.quant_algo);
  json.Key("kv_cache_quant_algo");
  if (config.cache.empty()) {
    json.Null();
  } else {
    json.String(config.cache);
  }
  json.Uint("group_size", config.group_size);
  if (!config.nvfp4.empty()) AddLayers(config, json);
  json.Strings("exclude_modules", config.exclude_modules);
  json.EndObject();
  json.EndObject();
  return json.Take();
}

}  // namespace dsv3::convert
