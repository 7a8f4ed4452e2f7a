// An input is the text of a manifest.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "formats/manifest.h"
#include "formats/shape.h"
#include "tests/fuzz/python_numbers.h"
#include "tests/fuzz/require.h"

namespace {

using dsv3::formats::Manifest;

void RequireSound(const Manifest& manifest) {
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    const std::string framed = "/" + manifest.files[i].name + "/";
    DSV3_FUZZ_REQUIRE(i == 0 || manifest.files[i - 1].name < manifest.files[i].name);
    DSV3_FUZZ_REQUIRE(framed.find("/../") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("/./") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find("//") == std::string::npos);
    DSV3_FUZZ_REQUIRE(framed.find('\0') == std::string::npos);
  }
  for (const auto& tensor : manifest.tensors) {
    DSV3_FUZZ_REQUIRE(manifest.FindFile(tensor.file) != nullptr);
    DSV3_FUZZ_REQUIRE(dsv3::formats::NumBytes(tensor.dtype, tensor.shape).has_value());
    DSV3_FUZZ_REQUIRE(tensor.xxh3.size() == 32);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Manifest manifest = dsv3::formats::ParseManifest(text, "fuzzed");
    DSV3_FUZZ_REQUIRE(nlohmann::json::accept(WithoutPythonNumbers(text)));
    RequireSound(manifest);
    const std::string written = dsv3::formats::SerializeManifest(manifest);
    const Manifest again = dsv3::formats::ParseManifest(written, "written");
    DSV3_FUZZ_REQUIRE(dsv3::formats::SerializeManifest(again) == written);
    DSV3_FUZZ_REQUIRE(dsv3::formats::ContentDigest(manifest.tensors) == again.content_digest);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    DSV3_FUZZ_REQUIRE(error.message().starts_with("fuzzed: "));
  }
  return 0;
}
