#pragma once

#include <string>
#include <vector>

#include "convert/job/runner.h"

// A packed checkpoint → the files that were packed.
namespace dsv3::convert {

inline constexpr char kUnpack[] = "unpack";

struct UnpackOptions {
  // Shell globs over whole tensor names: only these tensors, in shards of their own; empty: every
  // file as it was.
  std::vector<std::string> tensors = {};
};

// `dsv3-convert unpack`.
ConversionKind UnpackConversion(const UnpackOptions& options = {});

}  // namespace dsv3::convert
