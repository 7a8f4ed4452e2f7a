#include "convert/open/base_tensors.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "convert/open/files_to_pack.h"
#include "convert/open/packed_model.h"
#include "convert/open/pull_weights_model.h"
#include "convert/packing/packed_manifest.h"
#include "convert/plan/composed_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/manifest.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

[[noreturn]] void FailDifferences(const std::filesystem::path& directory) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: this checkpoint needs a base itself, and a base must not; unpack it "
                          "first and give what comes out",
                          formats::ShownPath(directory)),
              {directory.string(), ""});
}

PackedManifest ReadList(const std::filesystem::path& directory) {
  return ReadPackedManifest(directory, (directory / kPackedManifestName).string());
}

OpenedModel Open(const std::filesystem::path& directory) {
  if (!IsPackedDirectory(directory)) {
    RefuseDifferences(directory);
    return OpenModel(directory);
  }
  PackedManifest manifest = ReadList(directory);
  if (manifest.NeedsBase()) FailDifferences(directory);
  OpenedPacked opened = OpenPacked(directory, std::move(manifest));
  OpenedModel model = std::move(opened.model);
  const std::filesystem::path config = model.directory / formats::kConfigName;
  if (formats::Exists(config)) {
    model.config_text = formats::ReadSmallFile(config, formats::kMaxConfigBytes);
    model.config = ParseModelConfig(model.config_text, formats::kConfigName);
  }
  return model;
}

}  // namespace

BaseTensors::BaseTensors(const std::filesystem::path& directory) : BaseTensors(Open(directory)) {}

BaseTensors::BaseTensors(OpenedModel model) : model_(std::move(model)) {
  // What is wrong with scales is no matter: such a weight has no value in BF16.
  for (const ScaledWeight& pair : FindScaledWeights(model_.catalog, model_.config).pairs) {
    scaled_.emplace(pair.weight, pair);
  }
}

void BaseTensors::AppendTo(Catalog& catalog) {
  catalog.Append(model_.assembled ? model_.assembled->stored : model_.catalog,
                 std::string(kBaseOption));
  joint_ = &catalog;
  first_ = catalog.tensors_end();
}

// The value, whose sources are the base's own stored tensors, over the catalog.
ExpressionPtr BaseTensors::Moved(ExpressionPtr value) const {
  return Compose(std::move(value),
                 [this](std::uint32_t stored) { return Copy(*joint_, first_ + stored); });
}

ExpressionPtr BaseTensors::Find(const std::string& name, formats::Dtype dtype,
                                const formats::Shape& shape) const {
  const std::uint32_t position = model_.catalog.Find(name);
  if (position == Catalog::kNone) return nullptr;
  const CatalogTensor& tensor = model_.catalog.tensors()[position];
  const auto origin_of = [this](std::uint32_t source) {
    return model_.assembled ? Moved(model_.assembled->origins[source])
                            : Copy(*joint_, first_ + source);
  };
  if (tensor.dtype == dtype && tensor.shape == shape) return origin_of(position);
  const auto pair = scaled_.find(position);
  if (dtype != formats::Dtype::kBF16 || pair == scaled_.end()) return nullptr;
  ExpressionPtr value = Compose(Dequantize(model_.catalog, pair->second), origin_of);
  return value->shape() == shape ? value : nullptr;
}

ExpressionPtr BaseTensors::Require(const std::string& file, const std::string& name,
                                   formats::Dtype dtype, const formats::Shape& shape) const {
  ExpressionPtr found = Find(name, dtype, shape);
  if (found) return found;
  std::string other = "none of this name";
  if (const std::uint32_t position = model_.catalog.Find(name); position != Catalog::kNone) {
    const CatalogTensor& tensor = model_.catalog.tensors()[position];
    other = fmt::format("{} {}", formats::DtypeName(tensor.dtype),
                        formats::ShapeToString(tensor.shape));
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} was packed against one in {} {}, but the base has {}; "
                          "give the base that pack was given",
                          formats::ShownPath(file), QuoteForMessage(name),
                          formats::DtypeName(dtype), formats::ShapeToString(shape), other),
              {file, name});
}

void RefuseDifferences(const std::filesystem::path& directory) {
  const bool needs_base =
      IsPackedDirectory(directory) ? ReadList(directory).NeedsBase() : IsPullDirectory(directory);
  if (needs_base) FailDifferences(directory);
}

bool ReadsBase(const ModelTensors& tensors) {
  const auto holds_base = [](const Catalog& catalog) {
    return std::any_of(catalog.files().begin(), catalog.files().end(),
                       [](const SourceFile& file) { return file.checkpoint == kBaseOption; });
  };
  return holds_base(tensors.catalog) ||
         std::any_of(tensors.derived.begin(), tensors.derived.end(),
                     [&](const DerivedTensors& derived) { return holds_base(*derived.stored); });
}

void RequireBaseRead(const std::filesystem::path& base, bool is_read) {
  if (base.empty() || is_read) return;
  throw Error(ErrorCode::kUsage,
              "--base: nothing that is read here was packed against a base, so none is needed; "
              "leave the option out");
}

}  // namespace dsv3::convert
