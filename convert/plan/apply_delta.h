#pragma once

#include <cstdint>
#include <string>

#include "convert/catalog/catalog.h"
#include "convert/packing/pull_weights.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// A tensor of which weight deltas change the bytes (pull_weights.h): rule "apply-delta". `stream`
// is the tensor of the catalog that is the frame, `base` the value before. Every range reads the
// whole frame; on one thread ranges that follow each other are decoded once. Evaluating throws
// Error (kBadInput), naming the frame's file and tensor, where the frame is damaged; that the
// result is right the tensor's checksum says.
ExpressionPtr ApplyDelta(const Catalog& catalog, std::uint32_t stream, PullEncoding encoding,
                         ExpressionPtr base);

}  // namespace dsv3::convert
