#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace dsv3::formats {

// Element types of the safetensors format, in the order of the reference's enum: its writer sorts
// tensors by this order, descending. F4 and the F6 types are packed, less than one byte each.
enum class Dtype : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
inline constexpr int kNumDtypes = 22;

// Bits per element: 4, 6, 8, 16, 32 or 64.
unsigned DtypeBits(Dtype dtype);

// The name in a safetensors header, such as "F8_E4M3".
std::string_view DtypeName(Dtype dtype);

// The inverse of DtypeName; nothing for an unknown name (names are case-sensitive).
std::optional<Dtype> DtypeFromName(std::string_view name);

}  // namespace dsv3::formats
