// An input is a GGUF file.

#include <cstddef>
#include <cstdint>

#include "formats/error.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/io/input_file.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dsv3::formats::GgufTensor;
  const MemoryFile memory(data, size);
  const dsv3::formats::InputFile file = memory.Open();
  try {
    const dsv3::formats::GgufHeader header = dsv3::formats::ReadGgufHeader(file);
    DSV3_FUZZ_REQUIRE(header.data_offset <= size);
    std::uint64_t end = 0;
    for (const GgufTensor& tensor : header.tensors) {
      DSV3_FUZZ_REQUIRE(tensor.offset >= end && tensor.offset % header.alignment == 0);
      DSV3_FUZZ_REQUIRE(tensor.name.size() <= dsv3::formats::kMaxGgufNameBytes);
      end = tensor.offset + tensor.bytes;
    }
    DSV3_FUZZ_REQUIRE(end <= size - header.data_offset);
    // What was read can be written.
    DSV3_FUZZ_REQUIRE(
        dsv3::formats::SerializeGgufHeader(header.keys, header.tensors).starts_with("GGUF"));
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
