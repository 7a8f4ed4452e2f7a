#include "formats/io/stream_file.h"

#include <algorithm>
#include <cstdint>

#include "formats/io/aligned_buffer.h"

namespace dsv3::formats {
namespace {

constexpr std::size_t kPartBytes = std::size_t{4} << 20;

}  // namespace

void StreamFile(const InputFile& input,
                const std::function<void(std::span<const std::byte> part)>& visit) {
  AlignedBuffer buffer(InputFile::ScratchBytes(kPartBytes));
  for (std::uint64_t offset = 0; offset < input.bytes(); offset += kPartBytes) {
    const auto length =
        static_cast<std::size_t>(std::min<std::uint64_t>(kPartBytes, input.bytes() - offset));
    visit(input.ReadStreaming(offset, length, buffer.span()));
  }
}

}  // namespace dsv3::formats
