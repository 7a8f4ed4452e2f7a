#include "quant/planes.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quant/targets.h"

namespace dsv3::quant {
namespace {

using Bytes = std::vector<std::byte>;
using Wide = __int128;

constexpr unsigned kWidths[] = {1, 2, 4, 8};

class PlanesKernel : public TargetTest {};

INSTANTIATE_TEST_SUITE_P(Targets, PlanesKernel, EveryTarget(), TargetName);

Bytes RandomElements(std::size_t bytes, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes out(bytes);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

// The bits of element i as an unsigned number.
Wide Element(std::span<const std::byte> bytes, unsigned width, std::size_t i) {
  Wide value = 0;
  for (unsigned k = width; k-- > 0;)
    value = value * 256 + std::to_integer<int>(bytes[i * width + k]);
  return value;
}

Wide PowerOfTwo(unsigned exponent) { return Wide{1} << exponent; }

// A number by its order: −m − 1 for a float with the sign and the magnitude m.
Wide OrderOf(Wide bits, unsigned width, NumberOrder order) {
  const Wide sign = PowerOfTwo(8 * width - 1);
  if (order == NumberOrder::kInteger || bits < sign) return bits;
  return -(bits - sign) - 1;
}

Wide Difference(Wide x, Wide b, unsigned width, NumberOrder order) {
  const Wide all = PowerOfTwo(8 * width);
  Wide d = ((OrderOf(x, width, order) - OrderOf(b, width, order)) % all + all) % all;
  if (d >= all / 2) d -= all;
  return d >= 0 ? 2 * d : -2 * d - 1;
}

// Byte k of each number, lowest first.
Bytes PlanesOf(const std::vector<Wide>& numbers, unsigned width) {
  Bytes planes(numbers.size() * width);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    Wide rest = numbers[i];
    for (unsigned k = 0; k < width; ++k) {
      planes[k * numbers.size() + i] = static_cast<std::byte>(rest % 256);
      rest /= 256;
    }
  }
  return planes;
}

template <typename Number>
Bytes ExpectedPlanes(std::size_t n, unsigned width, const Number& number) {
  std::vector<Wide> numbers;
  for (std::size_t i = 0; i < n; ++i) numbers.push_back(number(i));
  return PlanesOf(numbers, width);
}

TEST_P(PlanesKernel, PartsAndJoinsBytesOfAnyNumberOfElements) {
  for (const unsigned width : kWidths) {
    for (std::size_t n = 0; n < 300; n += n < 140 ? 1 : 37) {
      const Bytes in = RandomElements(n * width, n);
      Bytes planes(in.size());
      SplitPlanes(in, width, planes);
      ASSERT_EQ(planes,
                ExpectedPlanes(n, width, [&](std::size_t i) { return Element(in, width, i); }))
          << width << " " << n;
      Bytes scalar(in.size());
      SplitPlanesScalar(in, width, scalar);
      ASSERT_EQ(scalar, planes);
      Bytes back(in.size());
      JoinPlanes(planes, width, back);
      ASSERT_EQ(back, in) << width << " " << n;
      JoinPlanesScalar(planes, width, scalar);
      ASSERT_EQ(scalar, in);
    }
  }
}

TEST_P(PlanesKernel, RotatesEveryFloatOfTwoBytes) {
  Bytes in(2 * 65536 + 6);
  for (std::size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<std::byte>(i % 2 == 0 ? i / 2 : i / 2 / 256);
  }
  const std::size_t n = in.size() / 2;
  Bytes planes(in.size());
  SplitFloats(in, planes);
  EXPECT_EQ(planes, ExpectedPlanes(n, 2, [&](std::size_t i) {
              const Wide x = Element(in, 2, i);
              return x % 32768 * 2 + x / 32768;
            }));
  Bytes other(in.size());
  SplitFloatsScalar(in, other);
  EXPECT_EQ(other, planes);
  JoinFloats(planes, other);
  EXPECT_EQ(other, in);
  JoinFloatsScalar(planes, other);
  EXPECT_EQ(other, in);
}

TEST_P(PlanesKernel, TakesDifferencesOfEveryPairOfBytes) {
  Bytes in(65536);
  Bytes base(65536);
  for (std::size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<std::byte>(i);
    base[i] = static_cast<std::byte>(i / 256);
  }
  for (const NumberOrder order : {NumberOrder::kInteger, NumberOrder::kFloat}) {
    Bytes planes(in.size());
    SplitDifferences(in, base, 1, order, planes);
    EXPECT_EQ(planes, ExpectedPlanes(in.size(), 1, [&](std::size_t i) {
                return Difference(Element(in, 1, i), Element(base, 1, i), 1, order);
              }));
    Bytes back(in.size());
    JoinDifferences(planes, base, 1, order, back);
    EXPECT_EQ(back, in);
  }
}

TEST_P(PlanesKernel, TakesDifferencesOfAnyElements) {
  for (const unsigned width : kWidths) {
    for (const NumberOrder order : {NumberOrder::kInteger, NumberOrder::kFloat}) {
      for (std::size_t n = 0; n < 300; n += n < 140 ? 1 : 37) {
        const Bytes in = RandomElements(n * width, n);
        Bytes base = RandomElements(n * width, n + 1);
        // Some neighbours, across the sign as well.
        for (std::size_t i = 0; i < base.size() / 2; ++i) base[i] = in[i];
        if (!base.empty()) base[0] ^= std::byte{1};
        if (!base.empty()) base[width - 1] ^= std::byte{0x80};
        Bytes planes(in.size());
        SplitDifferences(in, base, width, order, planes);
        ASSERT_EQ(planes, ExpectedPlanes(n, width,
                                         [&](std::size_t i) {
                                           return Difference(Element(in, width, i),
                                                             Element(base, width, i), width, order);
                                         }))
            << width << " " << n;
        Bytes other(in.size());
        SplitDifferencesScalar(in, base, width, order, other);
        ASSERT_EQ(other, planes);
        JoinDifferences(planes, base, width, order, other);
        ASSERT_EQ(other, in) << width << " " << n;
        JoinDifferencesScalar(planes, base, width, order, other);
        ASSERT_EQ(other, in);
      }
    }
  }
}

TEST_P(PlanesKernel, CountsElementsThatDiffer) {
  for (const unsigned width : kWidths) {
    const std::size_t n = 333;
    const Bytes a = RandomElements(n * width, width);
    Bytes b = a;
    EXPECT_EQ(CountDifferent(a, b, width), 0U);
    for (std::size_t changed = 1; changed <= n; ++changed) {
      // The byte changes its place in the element.
      const std::size_t i = changed * 7 % n;
      b[i * width + changed % width] ^= std::byte{4};
      ASSERT_EQ(CountDifferent(a, b, width), changed) << width;
    }
    EXPECT_EQ(CountDifferent({}, {}, width), 0U);
  }
}

}  // namespace
}  // namespace dsv3::quant
