#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/packing/packed_manifest.h"
#include "tests/cli/json_schema.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using nlohmann::json;

std::string ComplaintsAbout(const convert::PackedManifest& manifest) {
  const std::filesystem::path source = DSV3_SOURCE_DIR;
  return SchemaComplaints(json::parse(ReadFile(source / "docs/schemas/packed.schema.json")),
                          json::parse(convert::SerializePackedManifest(manifest)));
}

TEST(PackedSchemaTest, PackedJsonConforms) {
  convert::PackedManifest manifest;
  EXPECT_EQ(ComplaintsAbout(manifest), "");
  const std::string sha(64, 'a');
  manifest.files = {{.name = "config.json", .bytes = 2, .sha256 = ""},
                    {.name = "model.safetensors",
                     .bytes = 9,
                     .sha256 = sha,
                     .packed = true,
                     .packed_bytes = 7,
                     .packed_sha256 = sha}};
  manifest.tensors = {{.name = "w",
                       .file = "model.safetensors",
                       .dtype = formats::Dtype::kBF16,
                       .shape = {2, 0},
                       .xxh3 = std::string(32, 'b'),
                       .base_xxh3 = std::string(32, 'c')}};
  EXPECT_EQ(ComplaintsAbout(manifest), "");
  manifest.tensors[0].xxh3 = "no digest";
  EXPECT_NE(ComplaintsAbout(manifest), "");
}

}  // namespace
}  // namespace dsv3::testing
