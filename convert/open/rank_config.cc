#include "convert/open/rank_config.h"

#include <vector>

#include <fmt/format.h>

#include "convert/model/config_edit.h"
#include "convert/model/module_list.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

using formats::kConfigName;

const QuantizationConfig& QuantizationOrThrow(const ModelConfig& config, std::string_view option,
                                              std::string_view what) {
  const std::optional<QuantizationConfig>& quantization = config.quantization;
  if (quantization && quantization->weight_block_size) return *quantization;
  throw Error(ErrorCode::kUsage,
              fmt::format("--on-misaligned {}: this checkpoint's config.json has no "
                          "weight_block_size, beside which {}; choose another --on-misaligned",
                          option, what));
}

}  // namespace

std::string ConfigForRanks(const std::string& config_text, const ModelConfig& config,
                           const Slicing& slicing, bool has_mtp) {
  std::string text = config_text;
  if (slicing.recut_block) {
    const QuantizationConfig& quantization =
        QuantizationOrThrow(config, "subblock", "finer blocks could be given");
    text = formats::ReplaceJsonMember(
        text, quantization.member + "/weight_block_size",
        fmt::format("[{}, {}]", slicing.recut_block->rows, slicing.recut_block->cols), kConfigName);
  }
  if (!slicing.bf16_modules.empty()) {
    const QuantizationConfig& quantization =
        QuantizationOrThrow(config, "bf16", "the modules that are not FP8 could be listed");
    std::vector<std::string> listed = quantization.modules_to_not_convert;
    listed.insert(listed.end(), slicing.bf16_modules.begin(), slicing.bf16_modules.end());
    const ModuleList modules(listed);  // each once
    formats::JsonWriter json(0);
    json.Strings(modules.entries());
    for (const std::string& list : quantization.module_lists) {
      text = SetConfigMember(text, quantization.member + "/" + list, json.text());
    }
  }
  if (!has_mtp && config.num_nextn_predict_layers != 0) {
    text = formats::ReplaceJsonMember(text, config.prefix + "num_nextn_predict_layers", "0",
                                      kConfigName);
  }
  return text;
}

}  // namespace dsv3::convert
