#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"

namespace dsv3::convert {

// Tensors of integers that lie where a weight is looked for, such as "….W_q" or "…_blocks" for
// "….weight": codes of a form that the table of forms does not have. Companions that known forms
// keep beside codes do not count: they may be left of a weight that is missing.
class StoredInstead {
 public:
  // Looks through the names of the catalog, which must outlive this object.
  explicit StoredInstead(const Catalog& catalog);

  // The first such tensor of the weight "….weight", or of the fused experts "…_proj";
  // Catalog::kNone where there is none.
  std::uint32_t Find(std::string_view weight) const;

 private:
  std::map<std::string_view, std::uint32_t> by_module_;
};

// Whether RecogniseForm or the conversions know how the config's quant_method stores weights; true
// for a config that names none.
bool IsKnownMethod(const ModelConfig& config);

// What a message says of a missing weight, behind kNoFileHoldsIt, where its codes are there in a
// form that is not known: the weight is not to be called missing.
inline constexpr std::string_view kUnderThisName = " under this name";

// What a message about missing tensors says that this means, before what to do.
inline constexpr std::string_view kIncomplete =
    "; the checkpoint is incomplete or the config belongs to another model: ";

// The end of that message, which begins with kUnderThisName; empty where neither the config's
// method nor `instead`, the tensor that lies in the weight's place or kNone, says so.
std::string UnknownFormText(const ModelConfig& config, const Catalog& catalog,
                            std::uint32_t instead);

}  // namespace dsv3::convert
