// An input is the pickle of an archive with two storages, "0" of 24 bytes and "1" of 8. The archive
// lies in the middle of a file.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/torch_save.h"
#include "tests/formats/support/torch_archive.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::FileRange;
using dsv3::formats::TorchSave;
using dsv3::formats::TorchStorage;
using dsv3::formats::TorchTensor;

__extension__ using Wide = unsigned __int128;

// Checked again with numbers that cannot overflow here: 16 dimensions of less than 2^63 each.
void RequireWithin(const TorchTensor& tensor, const TorchStorage& storage) {
  DSV3_FUZZ_REQUIRE(tensor.shape.size() <= dsv3::formats::kMaxTorchDims);
  DSV3_FUZZ_REQUIRE(tensor.strides.size() == tensor.shape.size());
  Wide last = tensor.offset;
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 0) return;
    const Wide step = Wide{tensor.shape[i] - 1} * tensor.strides[i];
    DSV3_FUZZ_REQUIRE(step < storage.range.bytes);
    last += step;
  }
  DSV3_FUZZ_REQUIRE((last + 1) * tensor.type->bytes <= storage.range.bytes);
}

void RequireSound(const TorchSave& save, FileRange archive) {
  for (const TorchStorage& storage : save.storages) {
    const bool first = storage.key == "0";
    DSV3_FUZZ_REQUIRE(first || storage.key == "1");
    DSV3_FUZZ_REQUIRE(storage.range.bytes == (first ? 24U : 8U));
    DSV3_FUZZ_REQUIRE(storage.range.offset >= archive.offset);
    DSV3_FUZZ_REQUIRE(storage.range.offset + storage.range.bytes < archive.offset + archive.bytes);
  }
  DSV3_FUZZ_REQUIRE(save.storages.size() <= 2);
  for (const TorchTensor& tensor : save.tensors) {
    RequireWithin(tensor, save.storages.at(tensor.storage));
    DSV3_FUZZ_REQUIRE(save.Path(tensor).size() <= dsv3::formats::Pickle::kMaxDepth);
    DSV3_FUZZ_REQUIRE(save.Path(tensor).empty() == save.Name(tensor).empty() ||
                      save.Path(tensor).size() == 1);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string pickle(reinterpret_cast<const char*>(data), size);
  const std::string before = "before";
  const std::string archive = dsv3::testing::TorchArchive(
      pickle, {{"0", std::string(24, '\x01')}, {"1", std::string(8, '\x02')}});
  const std::string file = before + archive + "after";
  const MemoryFile memory(reinterpret_cast<const std::uint8_t*>(file.data()), file.size());
  const FileRange range{.offset = before.size(), .bytes = archive.size()};
  try {
    RequireSound(dsv3::formats::ReadTorchSave(memory.Open(), range), range);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
