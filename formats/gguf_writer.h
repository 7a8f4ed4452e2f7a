#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace dsv3::formats {

// Sets offset and bytes of tensors that lie in this order, each at a multiple of kGgufAlignment.
// Throws Error (kInternal) when blocks do not fill a tensor's rows, or its bytes overflow.
void LayOutGgufTensors(std::vector<GgufTensor>& tensors);

// The bytes before the data of a version 3 file that holds these laid-out tensors, padded with
// zeros to kGgufAlignment. `keys` has no general.alignment. Throws Error (kBadInput) for what
// ReadGgufHeader refuses: names and keys that are too long or come twice, more than
// kMaxGgufDimensions, a header that is too long.
std::string SerializeGgufHeader(const GgufKeys& keys, const std::vector<GgufTensor>& tensors);

}  // namespace dsv3::formats
