#pragma once

#include <vector>

#include "convert/layouts/layout_tensors.h"

namespace dsv3::convert {

// The tensor made of the sources of `inner`, where `outer` is made of the tensors of `inner`: the
// sources of `outer` are positions in `inner`. No part of `outer` may be transposed, and `inner`
// must be whole (Error kInternal otherwise). Pure and thread-safe.
ComposedTensor Flatten(const ComposedTensor& outer, const std::vector<ComposedTensor>& inner);

}  // namespace dsv3::convert
