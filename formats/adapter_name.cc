#include "formats/adapter_name.h"

#include <string>

#include "formats/text_encoding.h"

namespace dsv3::formats {

bool IsAdapterName(std::string_view file_name) {
  const std::string name = AsciiLower(file_name);
  return name.starts_with("adapter_") || name.starts_with("adapters.") ||
         name.starts_with("pytorch_lora_weights.");
}

}  // namespace dsv3::formats
