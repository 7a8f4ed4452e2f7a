#include "formats/npy_elements.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are read in place");

constexpr std::size_t kChunkBytes = 1 << 16;

// The little- or big-endian number of these bytes, eight at most.
std::uint64_t LoadBits(std::span<const std::byte> bytes, bool big_endian) {
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const std::byte next = bytes[big_endian ? i : bytes.size() - 1 - i];
    bits = bits << 8 | std::to_integer<std::uint64_t>(next);
  }
  return bits;
}

float HalfToFloat(std::uint32_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero or subnormal
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  constexpr std::uint32_t kRebias = 127 - 15;
  const std::uint32_t wide = exponent == 0x1F ? 0xFF : exponent + kRebias;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

float ToFloat(std::uint64_t bits, unsigned element_bytes) {
  switch (element_bytes) {
    case 2:
      return HalfToFloat(static_cast<std::uint32_t>(bits));
    case 4:
      return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    default:
      return static_cast<float>(std::bit_cast<double>(bits));
  }
}

// Calls visit(i, bits) for the elements i in [begin, end) as stored.
template <typename Visit>
void VisitElements(const InputFile& file, const NpyHeader& header, std::uint64_t begin,
                   std::uint64_t end, const Visit& visit) {
  const std::size_t width = header.element_bytes;
  std::vector<std::byte> chunk(std::min<std::uint64_t>(kChunkBytes, (end - begin) * width));
  while (begin < end) {
    const std::uint64_t count = std::min<std::uint64_t>(end - begin, chunk.size() / width);
    const std::span<std::byte> bytes = std::span(chunk).first(count * width);
    file.ReadAt(header.data_offset + begin * width, bytes);
    for (std::size_t i = 0; i < count; ++i) {
      visit(begin + i, LoadBits(bytes.subspan(i * width, width), header.big_endian));
    }
    begin += count;
  }
}

// Walks an array in Fortran order; the place in C order of each element.
class FortranWalk {
 public:
  explicit FortranWalk(const Shape& shape)
      : shape_(shape), strides_(shape.size()), at_(shape.size()) {
    std::uint64_t stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
      strides_[d] = stride;
      stride *= shape[d];
    }
  }

  // The place of the next element.
  std::uint64_t Next() {
    const std::uint64_t place = place_;
    for (std::size_t d = 0; d < shape_.size(); ++d) {
      place_ += strides_[d];
      if (++at_[d] < shape_[d]) break;
      place_ -= shape_[d] * strides_[d];
      at_[d] = 0;
    }
    return place;
  }

 private:
  const Shape& shape_;
  std::vector<std::uint64_t> strides_;
  std::vector<std::uint64_t> at_;
  std::uint64_t place_ = 0;
};

}  // namespace

std::vector<std::int64_t> ReadNpyIntegers(const InputFile& file, const NpyHeader& header) {
  if (header.kind == NpyKind::kFloat) {
    FailNpy(file, fmt::format("its dtype is '{}', but integers are needed", header.descr),
            "save the array with .astype(numpy.int64)");
  }
  if (header.num_elements > kMaxNpyIntegers) {
    FailNpy(file,
            fmt::format("it has {} elements; at most {} are read", ShownCount(header.num_elements),
                        ShownCount(kMaxNpyIntegers)),
            "save a part of the array");
  }
  std::vector<std::int64_t> values(header.num_elements);
  if (values.empty()) return values;
  FortranWalk fortran(header.shape);
  const unsigned unused_bits = 64 - 8 * header.element_bytes;
  constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
  VisitElements(file, header, 0, values.size(), [&](std::uint64_t i, std::uint64_t bits) {
    if (header.kind == NpyKind::kSigned) {
      values[header.fortran_order ? fortran.Next() : i] =
          static_cast<std::int64_t>(bits << unused_bits) >> unused_bits;
      return;
    }
    if (bits > kLargest) {
      FailNpy(file,
              fmt::format("element {} in the order of the file is {}; at most {} is read", i, bits,
                          kLargest),
              "give integers that 64 bits with a sign can hold");
    }
    values[header.fortran_order ? fortran.Next() : i] = static_cast<std::int64_t>(bits);
  });
  return values;
}

void ReadNpyFloats(const InputFile& file, const NpyHeader& header, std::uint64_t begin,
                   std::span<float> out) {
  if (header.kind != NpyKind::kFloat) {
    FailNpy(file, fmt::format("its dtype is '{}', but floats are needed", header.descr),
            "save the array with .astype(numpy.float32)");
  }
  if (header.fortran_order) {
    FailNpy(file, "it is in Fortran order, but C order is needed",
            "save numpy.ascontiguousarray of the array");
  }
  if (begin > header.num_elements || out.size() > header.num_elements - begin) {
    throw Error(ErrorCode::kInternal,
                fmt::format("{}: elements {} to {} of {} are asked for", ShownPath(file.name()),
                            begin, begin + out.size(), header.num_elements),
                {.file = file.name(), .tensor = {}});
  }
  if (out.empty()) return;
  if (header.element_bytes == sizeof(float) && !header.big_endian) {
    file.ReadAt(header.data_offset + begin * sizeof(float), std::as_writable_bytes(out));
    return;
  }
  VisitElements(file, header, begin, begin + out.size(), [&](std::uint64_t i, std::uint64_t bits) {
    out[i - begin] = ToFloat(bits, header.element_bytes);
  });
}

}  // namespace dsv3::formats
