// An input is the text of a packed.json, whose own digest is put right before it is read.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "convert/packing/packed_manifest.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
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

// Mutations would hardly ever pass the check of the digest.
std::string Signed(std::string text) {
  constexpr std::string_view kName = "\"list_xxh3_128\":\"";
  const std::size_t at = text.rfind(kName);
  if (at == text.npos || text.size() - at - kName.size() < 32) return text;
  const auto bytes = std::as_bytes(std::span(text).first(at));
  return text.replace(at + kName.size(), 32, dsv3::formats::Xxh3Hex(bytes));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text = Signed({reinterpret_cast<const char*>(data), size});
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
