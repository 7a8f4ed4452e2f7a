#include "formats/manifest.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using ::testing::HasSubstr;

constexpr const char* kA = "0123456789abcdef0123456789abcdef";
constexpr const char* kB = "ffffffffffffffffffffffffffffffff";

std::string Sha(char digit) { return std::string(64, digit); }

// Uses every member there is.
Manifest WholeManifest() {
  Manifest manifest;
  manifest.job.recipe = "fp8-to-bf16";
  manifest.job.options = {{"checksum", "\"sha256\""}, {"block", "[128,128]"}};
  manifest.job.removed_config = {{"quantization_config", "{ \"fmt\": \"e4m3\" }"}};
  manifest.job.dropped = {{"layers.*.input_scale", 48}, {"odd \"name\"", 1}};
  manifest.job.source_files = {{"", "in.safetensors", 12, kA},
                               {"original", "in.safetensors", 9, kB}};
  manifest.files = {{"config.json", 2, Sha('1'), "", true},
                    {"model.safetensors", 104, Sha('2'), kA, false},
                    {"odd \"name\"\n", 0, "", "", true}};
  ManifestTensor tensor;
  tensor.name = "a.weight";
  tensor.file = "model.safetensors";
  tensor.dtype = Dtype::kBF16;
  tensor.shape = {2, 3};
  tensor.xxh3 = kA;
  tensor.sha256 = Sha('3');
  tensor.nan_codes = 4;
  tensor.rule = "dequantize";
  tensor.sources = {{"", "a.weight", Dtype::kF8E4M3, {2, 3}, kB, Sha('4')},
                    {"original", "a.weight_scale_inv", Dtype::kF32, {1, 1}, kA, ""},
                    {"", "a.weight", Dtype::kBF16, {2, 1}, kA, "", "rank.safetensors"}};
  manifest.tensors.push_back(tensor);
  tensor = {};
  tensor.name = "scalar";
  tensor.file = "model.safetensors";
  tensor.dtype = Dtype::kF32;
  tensor.xxh3 = kB;
  manifest.tensors.push_back(tensor);
  manifest.content_digest = ContentDigest(manifest.tensors);
  return manifest;
}

std::string Replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

void ExpectMalformed(const std::string& text, const std::string& problem) {
  testing::ExpectBadInput([&] { ParseManifest(text, "m.json"); }, "m.json", problem);
}

TEST(ManifestTest, GivesTheSameBytesAfterReading) {
  const std::string text = SerializeManifest(WholeManifest());
  const Manifest manifest = ParseManifest(text, "m.json");
  EXPECT_EQ(SerializeManifest(manifest), text);
  EXPECT_EQ(ManifestJobText(manifest.job), ManifestJobText(WholeManifest().job));
  EXPECT_THAT(text, HasSubstr(ManifestJobText(manifest.job)));
}

TEST(ManifestTest, ReadsEveryMember) {
  const Manifest manifest = ParseManifest(SerializeManifest(WholeManifest()), "m.json");
  EXPECT_EQ(manifest.job.options[1].second, "[128,128]");
  EXPECT_EQ(manifest.job.removed_config[0].second, "{ \"fmt\": \"e4m3\" }");
  EXPECT_EQ(manifest.job.source_files[1].checkpoint, "original");
  EXPECT_FALSE(manifest.FindFile("model.safetensors")->by_recipe);
  EXPECT_EQ(manifest.FindFile("model.safetensors")->header_xxh3, kA);
  EXPECT_NE(manifest.FindFile("odd \"name\"\n"), nullptr);
  EXPECT_EQ(manifest.FindFile("none"), nullptr);
  EXPECT_EQ(manifest.tensors[0].nan_codes, 4U);
  EXPECT_EQ(manifest.tensors[0].sources[0].sha256, Sha('4'));
  EXPECT_EQ(manifest.tensors[0].sources[1].checkpoint, "original");
  EXPECT_EQ(manifest.tensors[0].sources[1].file, "");
  EXPECT_EQ(manifest.tensors[0].sources[2].file, "rank.safetensors");
  EXPECT_EQ(manifest.content_digest, WholeManifest().content_digest);
}

TEST(ManifestTest, KeepsNumbersOfTheConfigThatPythonWrites) {
  Manifest manifest = WholeManifest();
  manifest.job.removed_config = {{"quantization_config", "{\"limit\": [NaN, -Infinity]}"}};
  const std::string text = SerializeManifest(manifest);
  EXPECT_EQ(SerializeManifest(ParseManifest(text, "m.json")), text);
  ExpectMalformed(Replaced(text, "[128,128]", "NaN"), "not valid JSON");
}

TEST(ManifestTest, SkipsMembersThatItDoesNotKnow) {
  const std::string text = Replaced(SerializeManifest(WholeManifest()), "\"version\": 1",
                                    "\"version\": 1, \"news\": {\"a\": [1, 2]}");
  EXPECT_EQ(SerializeManifest(ParseManifest(text, "m.json")), SerializeManifest(WholeManifest()));
}

TEST(ManifestTest, AcceptsTheFirstReleaseWithoutContentDigestAndHeaderDigests) {
  std::string text = SerializeManifest(WholeManifest());
  text = Replaced(text, ",\n\"content_digest\": \"" + WholeManifest().content_digest + "\"", "");
  text = Replaced(text, std::string(",\"header_xxh3_128\":\"") + kA + "\",\"by_recipe\":false", "");
  const Manifest manifest = ParseManifest(text, "m.json");
  EXPECT_EQ(manifest.content_digest, "");
  EXPECT_EQ(manifest.FindFile("model.safetensors")->header_xxh3, "");
}

TEST(ManifestTest, RejectsWhatIsNoManifest) {
  const std::string text = SerializeManifest(WholeManifest());
  ExpectMalformed("", "");
  ExpectMalformed("[]", "");
  ExpectMalformed("{}", "has no member \"format\"");
  ExpectMalformed(Replaced(text, "dsv3-checkpoint", "other"), "\"format\"");
  ExpectMalformed(Replaced(text, "\"version\": 1", "\"version\": 2"), "\"version\" is not 1");
  ExpectMalformed(Replaced(text, "\"version\": 1", "\"version\": 1, \"version\": 1"),
                  "two members \"version\"");
  ExpectMalformed(Replaced(text, "\"tensors\": [", "\"tensor\": ["), "no member \"tensors\"");
  ExpectMalformed(text + "x", "");
}

TEST(ManifestTest, RejectsEveryProperPrefix) {
  const std::string text = SerializeManifest(WholeManifest());
  for (std::size_t length = 0; length + 1 < text.size(); ++length) {
    EXPECT_THROW(ParseManifest(std::string_view(text).substr(0, length), "m.json"), Error)
        << length;
  }
}

TEST(ManifestTest, RejectsNamesThatLeadOutOfTheDirectory) {
  const std::string text = SerializeManifest(WholeManifest());
  for (const char* name : {"/etc/passwd", "../x", "a/../../x", "", "./x", "a//b"}) {
    ExpectMalformed(Replaced(text, "\"config.json\"", std::string("\"") + name + "\""),
                    "it lists file");
  }
}

TEST(ManifestTest, RejectsWrongValues) {
  const std::string text = SerializeManifest(WholeManifest());
  ExpectMalformed(Replaced(text, Sha('1'), Sha('A')), "64 lowercase hex digits");
  ExpectMalformed(Replaced(text, Sha('1'), "11"), "64 lowercase hex digits");
  ExpectMalformed(Replaced(text, std::string("\"xxh3_128\":\"") + kA, "\"xxh3_128\":\"0"),
                  "32 lowercase hex digits");
  ExpectMalformed(Replaced(text, "\"BF16\"", "\"BF17\""), "unknown dtype");
  ExpectMalformed(Replaced(text, "[2,3]", "[4294967296,4294967296]"), "no byte size");
  ExpectMalformed(Replaced(text, "\"by_recipe\":false", "\"by_recipe\":0"), "by_recipe");
  ExpectMalformed(Replaced(text, "\"config.json\"", "\"model.safetensors\""), "listed twice");
  ExpectMalformed(Replaced(text, "\"file\":\"model", "\"file\":\"other"), "not among the files");
  ExpectMalformed(Replaced(text, ",\"bytes\":2", ""), "a file has no member \"bytes\"");
}

TEST(ContentDigestTest, DependsOnNamesDtypesShapesAndBytesAlone) {
  std::vector<ManifestTensor> tensors = WholeManifest().tensors;
  const std::string digest = ContentDigest(tensors);
  std::reverse(tensors.begin(), tensors.end());
  tensors[0].file = "another.safetensors";
  tensors[1].rule = "copy";
  tensors[1].sources.clear();
  EXPECT_EQ(ContentDigest(tensors), digest);
  const auto changed = [&](auto change) {
    std::vector<ManifestTensor> other = WholeManifest().tensors;
    change(other[0]);
    return ContentDigest(other);
  };
  EXPECT_NE(changed([](ManifestTensor& tensor) { tensor.name = "b.weight"; }), digest);
  EXPECT_NE(changed([](ManifestTensor& tensor) { tensor.dtype = Dtype::kF16; }), digest);
  EXPECT_NE(changed([](ManifestTensor& tensor) { tensor.shape = {3, 2}; }), digest);
  EXPECT_NE(changed([](ManifestTensor& tensor) { tensor.xxh3 = kB; }), digest);
}

TEST(ContentDigestTest, IsTheSha256OfSortedLines) {
  Sha256 hash;
  hash.Update(testing::AsBytes(std::string("[\"a.weight\",\"BF16\",[2,3],\"") + kA + "\"]\n" +
                               "[\"scalar\",\"F32\",[],\"" + kB + "\"]\n"));
  EXPECT_EQ(ContentDigest(WholeManifest().tensors), hash.FinishHex());
}

}  // namespace
}  // namespace dsv3::formats
