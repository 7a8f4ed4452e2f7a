#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "convert/job/runner.h"

// A checkpoint → the same checkpoint packed.
namespace dsv3::convert {

// The forms that pack writes: packed.json and packed files, or the weight deltas that engines pull.
enum class PackForm { kPacked, kPullWeights };

struct PackOptions {
  // The checkpoint against which tensors are packed that it has, too; empty: none.
  std::filesystem::path base = {};
  PackForm form = PackForm::kPacked;
  // Of kPullWeights: the version that IN is, at least 1; needed. `base` is the one before it.
  std::optional<std::uint64_t> weight_version = std::nullopt;
  bool idempotent = false;  // deltas that may be applied twice
};

// `dsv3-convert pack`.
ConversionKind PackConversion(const PackOptions& options = {});

}  // namespace dsv3::convert
