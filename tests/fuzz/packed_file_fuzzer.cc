// An input is a packed file. Whatever opens is unpacked, tensor for tensor.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/packing/chunk_coder.h"
#include "convert/packing/packed_file.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::convert::PackedStream;

void UnpackTensor(const dsv3::formats::InputFile& input, const PackedStream& stream) {
  const auto chunks = dsv3::convert::ReadPackedChunks(input, stream);
  std::uint64_t end = stream.offset;
  std::uint64_t raw_end = 0;
  dsv3::convert::ChunkDecoder decoder;
  for (std::size_t i = 0; i < chunks.chunks.size(); ++i) {
    const auto& chunk = chunks.chunks[i];
    DSV3_FUZZ_REQUIRE(chunk.offset == end && chunk.raw_begin == raw_end);
    end += chunk.bytes;
    raw_end += chunk.raw_bytes;
    DSV3_FUZZ_REQUIRE(end <= stream.offset + stream.bytes);
    DSV3_FUZZ_REQUIRE(chunk.raw_bytes <= dsv3::convert::kMaxPackedChunkBytes);
    std::vector<std::byte> packed(chunk.bytes);
    input.ReadAt(chunk.offset, packed);
    std::vector<std::byte> raw(chunk.raw_bytes);
    decoder.Decode(packed, chunks.FramesOf(chunk), {}, {"fuzzed", stream.tensor, i}, raw);
  }
  DSV3_FUZZ_REQUIRE(raw_end == stream.raw_bytes);
}

// Calls `work`, which may find a fault of the input.
template <typename Work>
void FindFaults(const Work& work) {
  try {
    work();
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemoryFile memory(data, size);
  const dsv3::formats::InputFile input = memory.Open();
  FindFaults([&] {
    const auto head = dsv3::convert::ReadPackedHead(input);
    DSV3_FUZZ_REQUIRE(head.streams.size() == head.original.tensors.size());
    for (const PackedStream& stream : head.streams) {
      FindFaults([&] { UnpackTensor(input, stream); });
    }
  });
  return 0;
}
