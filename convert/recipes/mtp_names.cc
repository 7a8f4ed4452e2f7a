#include "convert/recipes/mtp_names.h"

#include <algorithm>

#include <fmt/format.h>

#include "convert/model/expected_tensors.h"
#include "convert/parallel/slicing.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// DeepSeek-V4 has its MTP layers outside the others.
constexpr std::string_view kV4Prefix = "mtp.";

void RequireNumberOfLayers(const ModelConfig& config) {
  if (config.num_hidden_layers > 0) return;
  const std::string problem =
      config.is_nextn ? "the model is the MTP layer of another one alone (its architecture is "
                        "NextN), so that it has no MTP layers of its own; name the main model"
                      : "num_hidden_layers is missing, so that it is not known which layers are "
                        "MTP layers; correct config.json";
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::kConfigName, problem),
              {formats::kConfigName, ""});
}

}  // namespace

MtpNames::MtpNames(const Catalog& catalog, const ModelConfig& config)
    : config_(config), prefix_(FindNamePrefix(catalog)) {
  RequireNumberOfLayers(config);
}

bool MtpNames::Holds(std::string_view name) const {
  return name.starts_with(kV4Prefix) || PlaceOf(name, prefix_, config_).mtp;
}

bool MtpNames::HoldsAny(const ModelEdit& edit) const {
  return std::any_of(edit.tensors.begin(), edit.tensors.end(),
                     [&](const EditedTensor& tensor) { return Holds(tensor.name); });
}

std::uint32_t MtpNames::MainOf(const Catalog& catalog, std::string_view rest) const {
  std::uint32_t main = Catalog::kNone;
  if (rest == kSharedHead) main = catalog.Find(prefix_ + "lm_head.weight");
  if (main == Catalog::kNone && (rest == kSharedHead || rest == kSharedEmbedding)) {
    main = catalog.Find(prefix_ + "model.embed_tokens.weight");
  }
  return main;
}

std::uint32_t MtpNames::MainOfAppended(const Catalog& catalog, std::string_view rest) const {
  std::uint32_t main = Catalog::kNone;
  if (rest == kSharedHead) main = catalog.FindAppended(prefix_ + "lm_head.weight");
  if (main == Catalog::kNone) {
    main = catalog.FindAppended(prefix_ + "model.embed_tokens.weight");
  }
  return main;
}

std::string MtpNames::LayerName(std::uint64_t layer) const {
  return fmt::format("{}model.layers.{}.", prefix_, layer);
}

}  // namespace dsv3::convert
