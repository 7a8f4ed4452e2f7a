// An input is the text of a packed.json.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "convert/packing/packed_manifest.h"
#include "formats/error.h"
#include "formats/shape.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::convert::PackedManifest;

void RequireSound(const PackedManifest& manifest) {
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    const std::string framed = "/" + manifest.files[i].name + "/";
    DSV3_FUZZ_REQUIRE(i == 0 || manifest.files[i - 1].name < manifest.files[i].name);
    DSV3_FUZZ_REQUIRE(framed.find("/../") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("/./") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("//") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find('\0') == std::string::npos);
  }
  for (const auto& tensor : manifest.tensors) {
    const auto* const file = manifest.FindFile(tensor.file);
    DSV3_FUZZ_REQUIRE(file != nullptr && file->packed);
    DSV3_FUZZ_REQUIRE(dsv3::formats::NumBytes(tensor.dtype, tensor.shape).has_value());
    DSV3_FUZZ_REQUIRE(tensor.xxh3.size() == 32);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const PackedManifest manifest = dsv3::convert::ParsePackedManifest(text, "fuzzed");
    DSV3_FUZZ_REQUIRE(nlohmann::json::accept(text));
    RequireSound(manifest);
    const std::string written = dsv3::convert::SerializePackedManifest(manifest);
    const PackedManifest again = dsv3::convert::ParsePackedManifest(written, "written");
    DSV3_FUZZ_REQUIRE(dsv3::convert::SerializePackedManifest(again) == written);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
