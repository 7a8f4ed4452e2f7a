#include "convert/recipes/compressed_tensors_config.h"

#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::JsonWriter;

void Arguments(JsonWriter& json, std::string_view key,
               const CompressedTensorsArguments& arguments) {
  json.BeginObject(key);
  if (arguments.block_structure) {
    json.Uints("block_structure",
               {arguments.block_structure->rows, arguments.block_structure->cols});
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
  json.Uint("num_bits", arguments.num_bits);
  if (!arguments.observer.empty()) json.String("observer", arguments.observer);
  if (!arguments.scale_dtype.empty()) json.String("scale_dtype", arguments.scale_dtype);
  json.String("strategy", arguments.strategy);
  json.Bool("symmetric", true);
  json.String("type", arguments.type);
  json.EndObject();
}

}  // namespace

std::string CompressedTensorsConfig(const CompressedTensorsScheme& scheme,
                                    const std::vector<std::string>& ignore) {
  JsonWriter json(0);
  json.BeginObject();
  json.BeginObject("config_groups");
  json.BeginObject("group_0");
  json.String("format", scheme.format);
  if (scheme.activations) {
    Arguments(json, "input_activations", *scheme.activations);
  } else {
    json.Null("input_activations");
  }
  json.Null("output_activations");
  json.Strings("targets", {"Linear"});
  Arguments(json, "weights", scheme.weights);
  json.EndObject();
  json.EndObject();
  json.String("format", scheme.format);
  json.Null("global_compression_ratio");
  json.Strings("ignore", ignore);
  json.Key("kv_cache_scheme");
  if (scheme.fp8_cache) {
    json.Raw(R"({"dynamic":false,"num_bits":8,"strategy":"tensor","symmetric":true,)"
             R"("type":"float"})");
  } else {
    json.Null();
  }
  json.Null("moe_sparsity_config");
  json.String("quant_method", "compressed-tensors");
  json.String("quantization_status", "compressed");
  if (!scheme.scale_fmt.empty()) json.String("scale_fmt", scheme.scale_fmt);
  json.BeginObject("sparsity_config");
  json.EndObject();
  json.BeginObject("transform_config");
  json.EndObject();
  json.String("version", "0.20.0");
  json.EndObject();
  return json.Take();
}

}  // namespace dsv3::convert
