#pragma once

#include <string_view>

namespace dsv3::formats {

// Whether a file of this name, without folders, is a part of an adapter: PEFT's adapter_*, MLX's
// adapters.*, and pytorch_lora_weights.*. Case does not matter.
bool IsAdapterName(std::string_view file_name);

}  // namespace dsv3::formats
