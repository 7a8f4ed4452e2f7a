#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/plan/derived_tensors.h"
#include "convert/verify/numeric_measure.h"
#include "convert/verify/value_checkpoint.h"
#include "formats/finding.h"

// What zeros in a tensor say; an internal part of numeric.h.
namespace dsv3::convert {

// A finding without its file and tensor.
struct ZeroFinding {
  formats::Severity severity = formats::Severity::kError;
  std::string_view kind;
  std::string message;
};

class ZeroJudge {
 public:
  // Refers to both.
  ZeroJudge(const ValueCheckpoint& checkpoint, const std::vector<Measurement>& measurements);

  // At most one finding, of a tensor that has values: "all-zero" where all values are zero, else
  // "zero-blocks", "zero-run" or "zero-rows"; of a scale "zero-scales".
  std::optional<ZeroFinding> Of(std::uint32_t tensor) const;

 private:
  ZeroFinding OfAllZero(std::uint32_t tensor) const;
  std::optional<ZeroFinding> OfScale(std::uint32_t scale, const ScaledWeight& weight) const;
  std::optional<ZeroFinding> OfRuns(std::uint32_t tensor) const;
  std::string ZeroBlocksSay(std::uint32_t tensor) const;

  const Catalog& catalog_;
  const std::vector<Measurement>& measurements_;
  const ScaleMap scales_;
  const std::vector<DerivedTensors> derived_;
  // By tensor: whether it belongs to an expert whose matrices are all zero while another expert of
  // the layer has values.
  std::vector<bool> pruned_;
};

}  // namespace dsv3::convert
