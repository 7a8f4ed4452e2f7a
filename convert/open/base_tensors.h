#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::convert {

// What options and catalogs call a base (SourceFile::checkpoint).
inline constexpr std::string_view kBaseOption = "base";

// The checkpoint beside the one that is packed or unpacked, of which packed tensors hold the
// differences alone. Immutable once it is in a catalog, so threads may share it.
class BaseTensors {
 public:
  // Opens whatever OpenModel opens; the config may be missing where nothing needs it. Throws Error
  // as that does, and kBadInput for a packed checkpoint that needs a base itself.
  explicit BaseTensors(const std::filesystem::path& directory);
  // A model that was opened as such.
  explicit BaseTensors(OpenedModel model);

  // The base's tensors under their own names and positions.
  const Catalog& catalog() const { return model_.catalog; }

  // Puts the base's stored tensors behind those of `catalog`, as Catalog::Append does.
  void AppendTo(Catalog& catalog);

  // What the base gives for a tensor of this name in this dtype and shape, over the catalog that it
  // was appended to: a tensor that it has so, or the BF16 value of an FP8 weight. nullptr where
  // there is none.
  ExpressionPtr Find(const std::string& name, formats::Dtype dtype,
                     const formats::Shape& shape) const;

  // The same for a tensor of a packed checkpoint's `file` that was packed against it. Throws Error
  // (kBadInput), naming both, where there is none.
  ExpressionPtr Require(const std::string& file, const std::string& name, formats::Dtype dtype,
                        const formats::Shape& shape) const;

 private:
  ExpressionPtr Moved(ExpressionPtr value) const;

  OpenedModel model_;
  std::unordered_map<std::uint32_t, ScaledWeight> scaled_;  // by the weight's position
  const Catalog* joint_ = nullptr;
  std::uint32_t first_ = 0;  // of the stored tensors in it
};

// Throws Error (kBadInput) for a directory that needs a base itself, which a base must not.
void RefuseDifferences(const std::filesystem::path& directory);

// Whether some of the tensors are made with those of a base.
bool ReadsBase(const ModelTensors& tensors);

// Throws Error (kUsage) where a base is given, not empty, though nothing was read with it.
void RequireBaseRead(const std::filesystem::path& base, bool is_read);

}  // namespace dsv3::convert
