#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "convert/catalog/catalog.h"
#include "convert/packing/pull_weights.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// The frame of a tensor in a file of weight deltas (pull_weights.h).
struct DeltaFrame {
  std::shared_ptr<const SourceFile> file;  // as it was when it was opened
  std::string tensor;
  std::uint32_t stream = 0;  // the tensor of the catalog that is the frame
  std::uint64_t offset = 0;  // from the start of the file
  std::uint64_t bytes = 0;
};

// A tensor of which weight deltas change the bytes: rule "apply-delta". `base` is the value before.
// A frame may be larger than memory, so evaluating reads it itself, piece by piece; on one thread
// ranges that follow each other are decoded once. Evaluating throws Error: kBadInput, naming the
// frame's file and tensor, where the frame is damaged or the file changed; kIo. That the result is
// right the tensor's checksum says.
ExpressionPtr ApplyDelta(DeltaFrame frame, PullEncoding encoding, ExpressionPtr base);

}  // namespace dsv3::convert
