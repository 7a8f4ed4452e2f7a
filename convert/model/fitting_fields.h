#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"

namespace dsv3::convert {

// A field of config.json and the one other value that makes the config predict tensors that are
// there, with no tensor that fitted before and fits no longer.
struct FittingField {
  std::string key;
  std::string value;
  std::string now;  // the value that it has, or that its absence stands for
};

// Finds such fields among those that shapes depend on, by trying them. For checkpoints that do not
// fit their config: looks at headers alone, but walks through all names many times.
class FittingFields {
 public:
  // `prefix`: see FindNamePrefix.
  FittingFields(const ModelConfig& config, const Catalog& catalog, std::string_view prefix);

  // For a tensor of another shape than is predicted: "; hidden_size 7168 would fit this tensor, and
  // counts as 7000 now: correct config.json"; empty where no field alone does it.
  std::string ForShape(std::uint32_t position) const;

  // For a tensor that is predicted and missing: ", or set q_lora_rank to 1536, which fits what is
  // there".
  std::string ForMissing(std::string_view name) const;

  // For a tensor that is not predicted: "set n_shared_experts to 1, which fits it; now it counts as
  // 0".
  std::string ForUnexpected(std::uint32_t position) const;

 private:
  struct Fit;
  struct Candidate {
    FittingField field;
    std::shared_ptr<const Fit> fit;
  };

  // The fields of those candidates that mend something, of these the ones that fit best.
  std::vector<FittingField> Best(const std::function<bool(const Fit&)>& mends) const;

  std::shared_ptr<const Fit> now_;  // nullptr for a model that is not known
  std::vector<Candidate> candidates_;
};

}  // namespace dsv3::convert
