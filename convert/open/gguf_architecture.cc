#include "convert/open/gguf_architecture.h"

#include <string>

#include <fmt/format.h>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void Fail(const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("config.json: {}", problem),
              {formats::kConfigName, ""});
}

GgufArchitecture ArchitectureOf(const ModelConfig& config) {
  const std::string& type = config.model_type;
  if (config.v4) return GgufArchitecture::kDeepSeek4;
  if (config.kv_lora_rank != 0) {
    const bool is_v3 = type == "deepseek_v2" || type == "deepseek_v3" || type == "kimi_k2";
    if (is_v3 && config.index_n_heads == 0) return GgufArchitecture::kDeepSeek2;
    if (type == "deepseek_v32") return GgufArchitecture::kDeepSeek32;
    if (type == "glm_moe_dsa") return GgufArchitecture::kGlmDsa;
  }
  Fail(fmt::format(
      "model_type {} is not written as GGUF; to-gguf writes deepseek2 (DeepSeek-V2, "
      "V3 and R1, Kimi K2, Moonlight), deepseek32 (V3.2), glm-dsa (GLM-5) and deepseek4 "
      "(V4)",
      QuoteForMessage(type)));
}

}  // namespace

std::string_view NameOfGgufArchitecture(GgufArchitecture architecture) {
  switch (architecture) {
    case GgufArchitecture::kDeepSeek2:
      return "deepseek2";
    case GgufArchitecture::kDeepSeek32:
      return "deepseek32";
    case GgufArchitecture::kGlmDsa:
      return "glm-dsa";
    case GgufArchitecture::kDeepSeek4:
      return "deepseek4";
  }
  return "";
}

GgufTarget GgufTargetOf(const ModelConfig& config, std::optional<GgufMtp> mtp) {
  GgufTarget target;
  target.architecture = ArchitectureOf(config);
  if (target.has_indexer() && config.q_lora_rank == 0) {
    Fail(fmt::format("there is no q_lora_rank, and llama.cpp's {} needs one",
                     NameOfGgufArchitecture(target.architecture)));
  }
  const std::uint64_t layers = config.num_nextn_predict_layers;
  if (mtp.value_or(target.has_indexer() ? GgufMtp::kKeep : GgufMtp::kDrop) == GgufMtp::kDrop) {
    return target;
  }
  if (target.architecture == GgufArchitecture::kDeepSeek4) {
    Fail(
        "llama.cpp has the MTP layers of V4 in a file of their own, which to-gguf does not write; "
        "leave them out: --mtp drop");
  }
  if (layers == 0 && mtp) {
    Fail(
        "the model has no MTP layer, so there is nothing for --mtp keep to keep; leave the option "
        "out");
  }
  if (layers > 1) {
    Fail(
        fmt::format("the model has {} MTP layers, and llama.cpp takes one; leave them out: "
                    "--mtp drop",
                    layers));
  }
  target.mtp_layers = layers;
  return target;
}

}  // namespace dsv3::convert
