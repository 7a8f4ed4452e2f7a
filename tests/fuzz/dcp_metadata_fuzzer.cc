// An input is the content of .metadata.

#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>

#include "formats/dcp_metadata.h"
#include "formats/error.h"
#include "formats/relative_name.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::DcpChunk;
using dsv3::formats::DcpMetadata;
using dsv3::formats::DcpTensor;

constexpr std::uint64_t kMost = std::uint64_t{1} << 63;

void RequireSound(const DcpMetadata& metadata, std::size_t size) {
  std::set<std::string_view> files;
  for (const std::string_view file : metadata.files) {
    DSV3_FUZZ_REQUIRE(files.insert(file).second);
    DSV3_FUZZ_REQUIRE(dsv3::formats::UnsafePath(file).empty());
  }
  std::set<std::string_view> names;
  for (const DcpTensor& tensor : metadata.tensors) {
    DSV3_FUZZ_REQUIRE(names.insert(tensor.name).second);
    DSV3_FUZZ_REQUIRE(tensor.type != nullptr);
    DSV3_FUZZ_REQUIRE(tensor.shape.size() <= dsv3::formats::kMaxTorchDims);
    for (const DcpChunk& chunk : tensor.chunks) {
      DSV3_FUZZ_REQUIRE(chunk.offsets.size() == tensor.shape.size());
      DSV3_FUZZ_REQUIRE(chunk.sizes.size() == tensor.shape.size());
      for (std::size_t i = 0; i < chunk.sizes.size(); ++i) {
        DSV3_FUZZ_REQUIRE(chunk.offsets[i] < kMost && chunk.sizes[i] < kMost);
      }
      if (chunk.file == dsv3::formats::kNoDcpFile) continue;
      DSV3_FUZZ_REQUIRE(chunk.file < metadata.files.size());
      DSV3_FUZZ_REQUIRE(chunk.range.offset < kMost && chunk.range.bytes < kMost);
      // Chunks of the same offsets have the same item.
      for (const DcpChunk& other : tensor.chunks) {
        DSV3_FUZZ_REQUIRE(other.offsets != chunk.offsets ||
                          (other.file == chunk.file && other.range == chunk.range));
      }
    }
  }
  DSV3_FUZZ_REQUIRE(metadata.tensors.size() + metadata.num_byte_items <= size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    RequireSound(dsv3::formats::ParseDcpMetadata(text, "fuzzed"), size);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
