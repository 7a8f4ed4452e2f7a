#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "formats/shape.h"

namespace dsv3::formats {

// Types of tensors in GGUF files, with the numbers that the files hold. The elements of a row lie
// in blocks; a block of a quantised type has codes and scales.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ8_0 = 8,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kMxfp4 = 39,
  kNvfp4 = 40,
};

struct GgufTypeInfo {
  GgufType type = GgufType::kF32;
  std::string_view name;             // "F32", "Q8_0"
  std::uint64_t block_elements = 1;  // of a row, which has whole blocks
  std::uint64_t block_bytes = 1;
};

// The type of a number, those that the enumeration does not name included; nullptr for a number
// without a type, such as those of types that llama.cpp removed.
const GgufTypeInfo* FindGgufType(std::uint32_t number);

// Precondition: `type` is one of the enumeration, or of FindGgufType.
const GgufTypeInfo& GgufTypeInfoOf(GgufType type);

// Bytes of a tensor; nothing on overflow, and when blocks do not fill its rows.
std::optional<std::uint64_t> GgufNumBytes(GgufType type, const Shape& shape);

}  // namespace dsv3::formats
