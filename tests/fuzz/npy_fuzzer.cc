// An input is a .npy file.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/error.h"
#include "formats/npy.h"
#include "formats/npy_elements.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::InputFile;
using dsv3::formats::NpyHeader;
using dsv3::formats::NpyKind;

void RequireBadInput(const dsv3::Error& error) {
  DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
  DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
}

void ReadIntegers(const InputFile& file, const NpyHeader& header) {
  try {
    const auto values = dsv3::formats::ReadNpyIntegers(file, header);
    DSV3_FUZZ_REQUIRE(header.kind != NpyKind::kFloat);
    DSV3_FUZZ_REQUIRE(values.size() == header.num_elements);
  } catch (const dsv3::Error& error) {
    RequireBadInput(error);
  }
}

void ReadFloats(const InputFile& file, const NpyHeader& header) {
  constexpr std::uint64_t kMostFloats = 1 << 20;
  const std::uint64_t count = std::min(header.num_elements, kMostFloats);
  std::vector<float> values(count);
  try {
    dsv3::formats::ReadNpyFloats(file, header, header.num_elements - count, values);
    DSV3_FUZZ_REQUIRE(header.kind == NpyKind::kFloat && !header.fortran_order);
  } catch (const dsv3::Error& error) {
    RequireBadInput(error);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemoryFile memory(data, size);
  const InputFile file = memory.Open();
  try {
    const NpyHeader header = dsv3::formats::ReadNpyHeader(file);
    DSV3_FUZZ_REQUIRE(header.data_offset + header.num_elements * header.element_bytes == size);
    DSV3_FUZZ_REQUIRE(header.shape.size() <= dsv3::formats::kMaxNpyDimensions);
    ReadIntegers(file, header);
    ReadFloats(file, header);
  } catch (const dsv3::Error& error) {
    RequireBadInput(error);
  }
  return 0;
}
