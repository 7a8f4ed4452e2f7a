#include "convert/recipes/compressed_tensors_config.h"

#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

void Text(JsonWriter& json, std::string_view key, std::string_view value) {
  json.Key(key);
  json.String(value);
}

void Null(JsonWriter& json, std::string_view key) {
  json.Key(key);
  json.Null();
}

void EmptyObject(JsonWriter& json, std::string_view key) {
  json.Key(key);
  json.BeginObject();
  json.EndObject();
}

void Texts(JsonWriter& json, std::string_view key, const std::vector<std::string>& texts) {
  json.Key(key);
  json.BeginArray();
  for (const std::string& text : texts) json.String(text);
  json.EndArray();
}

void Arguments(JsonWriter& json, std::string_view key,
               const CompressedTensorsArguments& arguments) {
  json.Key(key);
  json.BeginObject();
  if (arguments.block_structure) {
    json.Key("block_structure");
    json.BeginArray();
    json.Uint(arguments.block_structure->rows);
    json.Uint(arguments.block_structure->cols);
    json.EndArray();
  }
  json.Key("dynamic");
  if (arguments.local) {
    json.String("local");
  } else {
    json.Bool(arguments.dynamic);
  }
  json.Key("group_size");
  if (arguments.group_size) {
    json.Uint(*arguments.group_size);
  } else {
    json.Null();
  }
  json.Key("num_bits");
  json.Uint(arguments.num_bits);
  if (!arguments.observer.empty()) Text(json, "observer", arguments.observer);
  if (!arguments.scale_dtype.empty()) Text(json, "scale_dtype", arguments.scale_dtype);
  Text(json, "strategy", arguments.strategy);
  json.Key("symmetric");
  json.Bool(true);
  Text(json, "type", arguments.type);
  json.EndObject();
}

}  // namespace

std::string CompressedTensorsConfig(const CompressedTensorsScheme& scheme,
                                    const std::vector<std::string>& ignore) {
  JsonWriter json(0);
  json.BeginObject();
  json.Key("config_groups");
  json.BeginObject();
  json.Key("group_0");
  json.BeginObject();
  Text(json, "format", scheme.format);
  if (scheme.activations) {
    Arguments(json, "input_activations", *scheme.activations);
  } else {
    Null(json, "input_activations");
  }
  Null(json, "output_activations");
  Texts(json, "targets", {"Linear"});
  Arguments(json, "weights", scheme.weights);
  json.EndObject();
  json.EndObject();
  Text(json, "format", scheme.format);
  Null(json, "global_compression_ratio");
  Texts(json, "ignore", ignore);
  json.Key("kv_cache_scheme");
  if (scheme.fp8_cache) {
    json.Raw(R"({"dynamic":false,"num_bits":8,"strategy":"tensor","symmetric":true,)"
             R"("type":"float"})");
  } else {
    json.Null();
  }
  Null(json, "moe_sparsity_config");
  Text(json, "quant_method", "compressed-tensors");
  Text(json, "quantization_status", "compressed");
  if (!scheme.scale_fmt.empty()) Text(json, "scale_fmt", scheme.scale_fmt);
  EmptyObject(json, "sparsity_config");
  EmptyObject(json, "transform_config");
  Text(json, "version", "0.20.0");
  json.EndObject();
  return json.Take();
}

}  // namespace dsv3::convert
