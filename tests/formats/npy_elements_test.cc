#include "formats/npy_elements.h"

#include <bit>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/io/input_file.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/support/npy_text.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using testing::ExpectBadInput;
using ::testing::IsEmpty;
using testing::NpyDict;
using testing::NpyFile;
using testing::NpyText;

// The bytes of `bits`, of which the lowest `width` bytes count.
std::string Bytes(const std::vector<std::uint64_t>& bits, unsigned width, bool big_endian) {
  std::string bytes;
  for (const std::uint64_t value : bits) {
    for (unsigned i = 0; i < width; ++i) {
      bytes += static_cast<char>(value >> 8 * (big_endian ? width - 1 - i : i) & 0xFF);
    }
  }
  return bytes;
}

std::vector<std::int64_t> Integers(std::string_view content) {
  const NpyFile npy(content);
  const InputFile file = npy.Open();
  return ReadNpyIntegers(file, ReadNpyHeader(file));
}

std::vector<float> Floats(std::string_view content, std::uint64_t begin, std::size_t count) {
  const NpyFile npy(content);
  const InputFile file = npy.Open();
  std::vector<float> values(count);
  ReadNpyFloats(file, ReadNpyHeader(file), begin, values);
  return values;
}

TEST(NpyIntegersTest, ReadsEveryDtype) {
  for (const unsigned width : {1U, 2U, 4U, 8U}) {
    for (const bool big : {false, true}) {
      const std::string type = (big ? ">" : "<") + std::string("?") + std::to_string(width);
      const std::uint64_t top = std::uint64_t{1} << (8 * width - 1);
      std::string descr = type;
      descr[1] = 'i';
      const auto min = static_cast<std::int64_t>(~top + 1);
      EXPECT_THAT(Integers(NpyText(NpyDict(descr, "(4,)"),
                                   Bytes({1, ~std::uint64_t{0}, top, top - 1}, width, big))),
                  ElementsAre(1, -1, min, static_cast<std::int64_t>(top - 1)))
          << descr;
      descr[1] = 'u';
      const std::uint64_t largest = width == 8 ? top - 1 : 2 * top - 1;
      EXPECT_THAT(Integers(NpyText(NpyDict(descr, "(2,)"), Bytes({1, largest}, width, big))),
                  ElementsAre(1, static_cast<std::int64_t>(largest)))
          << descr;
    }
  }
}

TEST(NpyIntegersTest, GivesCOrder) {
  // numpy.asfortranarray(numpy.arange(24).reshape(2, 3, 4)) holds these.
  const std::vector<std::uint64_t> stored = {0, 12, 4, 16, 8,  20, 1, 13, 5, 17, 9,  21,
                                             2, 14, 6, 18, 10, 22, 3, 15, 7, 19, 11, 23};
  const std::vector<std::int64_t> c_order(stored.begin(), stored.end());
  EXPECT_EQ(Integers(NpyText(NpyDict("|u1", "(2, 3, 4)"), Bytes(stored, 1, false))), c_order);
  std::vector<std::int64_t> counted(24);
  for (std::size_t i = 0; i < counted.size(); ++i) counted[i] = static_cast<std::int64_t>(i);
  EXPECT_EQ(Integers(NpyText(NpyDict("|u1", "(2, 3, 4)", true), Bytes(stored, 1, false))), counted);
  EXPECT_EQ(Integers(NpyText(NpyDict("<i4", "(2, 3, 4)", true), Bytes(stored, 4, false))), counted);
}

TEST(NpyIntegersTest, ReadsScalarsEmptyAndLargeArrays) {
  EXPECT_THAT(Integers(NpyText(NpyDict("|i1", "()"), "\7")), ElementsAre(7));
  EXPECT_THAT(Integers(NpyText(NpyDict("|i1", "()", true), "\7")), ElementsAre(7));
  EXPECT_THAT(Integers(NpyText(NpyDict("<i8", "(0, 5)", true))), IsEmpty());
  std::vector<std::uint64_t> many(100'001);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = i;
  EXPECT_EQ(Integers(NpyText(NpyDict(">i4", "(100001,)"), Bytes(many, 4, true))),
            std::vector<std::int64_t>(many.begin(), many.end()));
}

TEST(NpyIntegersTest, RefusesFloatsLargeValuesAndTooMany) {
  const std::string floats = NpyText(NpyDict("<f4", "()"), "1234");
  ExpectBadInput([&] { Integers(floats); }, "a.npy: ", "'<f4', but integers are needed",
                 ".astype(numpy.int64)");
  const std::string large =
      NpyText(NpyDict("<u8", "(2,)"), Bytes({1, std::uint64_t{1} << 63}, 8, false));
  ExpectBadInput([&] { Integers(large); },
                 "element 1 in the order of the file is "
                 "9223372036854775808");
  const testing::TempDir dir;
  testing::WriteFile(dir / "many", NpyText(NpyDict("|u1", "(67108865,)")));
  std::filesystem::resize_file(dir / "many",
                               std::filesystem::file_size(dir / "many") + kMaxNpyIntegers + 1);
  const InputFile file(dir / "many", "many", DirectIo::kNever);
  ExpectBadInput([&] { ReadNpyIntegers(file, ReadNpyHeader(file)); }, "67,108,865 elements",
                 "at most 67,108,864");
}

TEST(NpyFloatsTest, ReadsEveryDtype) {
  for (const bool big : {false, true}) {
    const std::string order = big ? ">" : "<";
    const std::string halves = NpyText(
        NpyDict(order + "f2", "(9,)"),
        Bytes({0x3C00, 0xC500, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x8000}, 2, big));
    const float inf = std::numeric_limits<float>::infinity();
    EXPECT_THAT(Floats(halves, 0, 9), ElementsAre(1.0F, -5.0F, 0x1p-24F, -0x3FFp-24F, 0x1p-14F,
                                                  65504.0F, inf, -inf, 0.0F));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(Floats(halves, 8, 1)[0]), 0x80000000U);
    const std::string singles =
        NpyText(NpyDict(order + "f4", "(3,)"), Bytes({0x3F800000, 0xC0A00000, 1}, 4, big));
    EXPECT_THAT(Floats(singles, 0, 3), ElementsAre(1.0F, -5.0F, 0x1p-149F));
    const std::string doubles = NpyText(
        NpyDict(order + "f8", "(4,)"),
        Bytes({0x3FF0000000000000, 0x3FF0000010000000, 0x3FF0000010000001, 0x7FEFFFFFFFFFFFFF}, 8,
              big));
    // The second one is a tie between two floats.
    EXPECT_THAT(Floats(doubles, 0, 4), ElementsAre(1.0F, 1.0F, 0x1.000002p0F, inf));
  }
}

TEST(NpyFloatsTest, KeepsNanCodes) {
  const auto code = [](std::string_view content) {
    return std::bit_cast<std::uint32_t>(Floats(content, 0, 1)[0]);
  };
  EXPECT_EQ(code(NpyText(NpyDict("<f2", "()"), Bytes({0xFE01}, 2, false))), 0xFFC02000U);
  EXPECT_EQ(code(NpyText(NpyDict(">f4", "()"), Bytes({0x7FC00123}, 4, true))), 0x7FC00123U);
  EXPECT_EQ(code(NpyText(NpyDict("<f4", "()"), Bytes({0x7F800001}, 4, false))), 0x7F800001U);
}

TEST(NpyFloatsTest, ReadsRanges) {
  std::vector<std::uint64_t> bits;
  std::vector<float> values;
  for (int i = 0; i < 50'000; ++i) {
    values.push_back(static_cast<float>(i));
    bits.push_back(std::bit_cast<std::uint64_t>(static_cast<double>(i)));
  }
  const std::string text = NpyText(NpyDict("<f8", "(500, 100)"), Bytes(bits, 8, false));
  EXPECT_EQ(Floats(text, 0, values.size()), values);
  EXPECT_EQ(Floats(text, 17, 30'000),
            std::vector<float>(values.begin() + 17, values.begin() + 30'017));
  EXPECT_THAT(Floats(text, 49'999, 1), ElementsAre(49'999.0F));
  EXPECT_THAT(Floats(text, 50'000, 0), IsEmpty());
}

TEST(NpyFloatsTest, RefusesIntegersAndFortranOrder) {
  const std::string integers = NpyText(NpyDict("<i4", "()"), "1234");
  ExpectBadInput([&] { Floats(integers, 0, 1); }, "a.npy: ", "'<i4', but floats are needed",
                 ".astype(numpy.float32)");
  const std::string fortran = NpyText(NpyDict("<f4", "(1, 2)", true), "12345678");
  ExpectBadInput([&] { Floats(fortran, 0, 1); }, "a.npy: ", "Fortran order", "ascontiguousarray");
}

TEST(NpyFloatsTest, RefusesElementsThatTheArrayDoesNotHave) {
  const std::string text = NpyText(NpyDict("<f4", "(2,)"), "12345678");
  EXPECT_EQ(ErrorOf([&] { Floats(text, 1, 2); }).code(), ErrorCode::kInternal);
  EXPECT_EQ(ErrorOf([&] { Floats(text, 3, 0); }).code(), ErrorCode::kInternal);
}

}  // namespace
}  // namespace dsv3::formats
