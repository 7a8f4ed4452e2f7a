#include "formats/gguf_type.h"

#include <algorithm>
#include <array>

#include "formats/error.h"

namespace dsv3::formats {
namespace {

constexpr GgufTypeInfo Info(std::uint32_t number, std::string_view name,
                            std::uint64_t block_elements, std::uint64_t block_bytes) {
  return {static_cast<GgufType>(number), name, block_elements, block_bytes};
}

constexpr std::array kTypes = {
    Info(0, "F32", 1, 4),         Info(1, "F16", 1, 2),         Info(2, "Q4_0", 32, 18),
    Info(3, "Q4_1", 32, 20),      Info(6, "Q5_0", 32, 22),      Info(7, "Q5_1", 32, 24),
    Info(8, "Q8_0", 32, 34),      Info(9, "Q8_1", 32, 36),      Info(10, "Q2_K", 256, 84),
    Info(11, "Q3_K", 256, 110),   Info(12, "Q4_K", 256, 144),   Info(13, "Q5_K", 256, 176),
    Info(14, "Q6_K", 256, 210),   Info(15, "Q8_K", 256, 292),   Info(16, "IQ2_XXS", 256, 66),
    Info(17, "IQ2_XS", 256, 74),  Info(18, "IQ3_XXS", 256, 98), Info(19, "IQ1_S", 256, 50),
    Info(20, "IQ4_NL", 32, 18),   Info(21, "IQ3_S", 256, 110),  Info(22, "IQ2_S", 256, 82),
    Info(23, "IQ4_XS", 256, 136), Info(24, "I8", 1, 1),         Info(25, "I16", 1, 2),
    Info(26, "I32", 1, 4),        Info(27, "I64", 1, 8),        Info(28, "F64", 1, 8),
    Info(29, "IQ1_M", 256, 56),   Info(30, "BF16", 1, 2),       Info(34, "TQ1_0", 256, 54),
    Info(35, "TQ2_0", 256, 66),   Info(39, "MXFP4", 32, 17),    Info(40, "NVFP4", 64, 36),
    Info(41, "Q1_0", 128, 18),
};

}  // namespace

const GgufTypeInfo* FindGgufType(std::uint32_t number) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgufTypeInfo& info) {
    return static_cast<std::uint32_t>(info.type) == number;
  });
  return found == kTypes.end() ? nullptr : &*found;
}

const GgufTypeInfo& GgufTypeInfoOf(GgufType type) {
  const GgufTypeInfo* const info = FindGgufType(static_cast<std::uint32_t>(type));
  if (info == nullptr) throw Error(ErrorCode::kInternal, "a GGUF type without a description");
  return *info;
}

std::optional<std::uint64_t> GgufNumBytes(GgufType type, const Shape& shape) {
  const GgufTypeInfo& info = GgufTypeInfoOf(type);
  const std::uint64_t row = shape.empty() ? 1 : shape.back();
  const std::optional<std::uint64_t> elements = NumElements(shape);
  std::uint64_t bytes = 0;
  if (!elements || row % info.block_elements != 0 ||
      __builtin_mul_overflow(*elements / info.block_elements, info.block_bytes, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace dsv3::formats
