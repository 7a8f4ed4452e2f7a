#include "formats/dtype.h"

#include <string_view>
#include <utility>

#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

// The format's own list, in the order of the reference's enum.
constexpr std::pair<std::string_view, unsigned> kFormat[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64}};

TEST(DtypeTest, NamesAndBitsAreThoseOfTheFormatInTheReferencesOrder) {
  ASSERT_EQ(std::size(kFormat), static_cast<std::size_t>(kNumDtypes));
  for (int i = 0; i < kNumDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    EXPECT_EQ(DtypeName(dtype), kFormat[i].first);
    EXPECT_EQ(DtypeBits(dtype), kFormat[i].second) << kFormat[i].first;
    EXPECT_EQ(DtypeFromName(kFormat[i].first), dtype);
  }
  EXPECT_EQ(DtypeName(Dtype::kF8E4M3), "F8_E4M3");
  EXPECT_EQ(DtypeName(Dtype::kBF16), "BF16");
}

TEST(DtypeTest, UnknownNamesGiveNothing) {
  for (const std::string_view name : {"", "bf16", "BF16 ", "F8", "F8_E4M3FN", "float32"}) {
    EXPECT_EQ(DtypeFromName(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace dsv3::formats
