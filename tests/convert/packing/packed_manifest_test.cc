#include "convert/packing/packed_manifest.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/packing/packed_fixture.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/formats/expect_error.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

const std::string kA = "0123456789abcdef0123456789abcdef";
const std::string kSha(64, 'a');

PackedManifest Whole() {
  PackedManifest manifest;
  manifest.files = {{.name = "config.json", .bytes = 2, .sha256 = kSha},
                    {.name = "model.safetensors",
                     .bytes = 104,
                     .sha256 = kSha,
                     .packed = true,
                     .packed_bytes = 90,
                     .packed_sha256 = std::string(64, 'b')},
                    {.name = "sub/odd \"name\"\n", .bytes = 0, .sha256 = ""}};
  manifest.tensors = {
      {.name = "a",
       .file = "model.safetensors",
       .dtype = Dtype::kBF16,
       .shape = {2, 3},
       .xxh3 = kA,
       .base_xxh3 = std::string(32, 'f')},
      {.name = "b", .file = "model.safetensors", .dtype = Dtype::kF32, .shape = {}, .xxh3 = kA}};
  return manifest;
}

std::string Replaced(const std::string& what, const std::string& by) {
  std::string text = SerializePackedManifest(Whole());
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return testing::SignedList(text.replace(at, what.size(), by));
}

void ExpectMalformed(const std::string& text, const std::string& problem) {
  testing::ExpectBadInput([&] { ParsePackedManifest(text, "packed.json"); },
                          "packed.json: ", problem, "; restore it");
}

TEST(PackedManifestTest, HasTheTextThatIsDocumented) {
  const std::string whole = SerializePackedManifest(Whole());
  const std::string digest = testing::Xxh3Of(whole.substr(0, whole.rfind("\"list_xxh3_128\"")));
  EXPECT_EQ(SerializePackedManifest(Whole()),
            "{\n\"format\": \"dsv3-packed-checkpoint\",\n\"version\": 1,\n\"files\": [\n"
            "{\"name\":\"config.json\",\"bytes\":2,\"sha256\":\"" +
                kSha +
                "\"},\n"
                "{\"name\":\"model.safetensors\",\"bytes\":104,\"sha256\":\"" +
                kSha + "\",\"packed\":{\"bytes\":90,\"sha256\":\"" + std::string(64, 'b') +
                "\"}},\n"
                "{\"name\":\"sub/odd \\\"name\\\"\\n\",\"bytes\":0}\n"
                "],\n\"tensors\": [\n"
                "{\"name\":\"a\",\"file\":\"model.safetensors\",\"dtype\":\"BF16\",\"shape\":[2,3],"
                "\"xxh3_128\":\"" +
                kA + "\",\"base_xxh3_128\":\"" + std::string(32, 'f') +
                "\"},\n"
                "{\"name\":\"b\",\"file\":\"model.safetensors\",\"dtype\":\"F32\",\"shape\":[],"
                "\"xxh3_128\":\"" +
                kA + "\"}\n],\n\"list_xxh3_128\": \"" + digest + "\"\n}\n");
}

TEST(PackedManifestTest, ReadsEveryMember) {
  const PackedManifest manifest =
      ParsePackedManifest(SerializePackedManifest(Whole()), "packed.json");
  EXPECT_EQ(SerializePackedManifest(manifest), SerializePackedManifest(Whole()));
  EXPECT_TRUE(manifest.NeedsBase());
  const PackedManifestFile* const file = manifest.FindFile("model.safetensors");
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(file->packed);
  EXPECT_EQ(file->PackedName(), "model.safetensors.packed");
  EXPECT_EQ(file->packed_bytes, 90U);
  EXPECT_FALSE(manifest.FindFile("config.json")->packed);
  EXPECT_EQ(manifest.FindFile("none"), nullptr);
  EXPECT_EQ(manifest.tensors[0].shape, (formats::Shape{2, 3}));
  EXPECT_EQ(manifest.tensors[1].base_xxh3, "");
}

TEST(PackedManifestTest, NeedsNoBaseWhereNoTensorHasOne) {
  PackedManifest manifest = Whole();
  manifest.tensors[0].base_xxh3.clear();
  EXPECT_FALSE(ParsePackedManifest(SerializePackedManifest(manifest), "p").NeedsBase());
  EXPECT_FALSE(ParsePackedManifest(SerializePackedManifest({}), "p").NeedsBase());
}

TEST(PackedManifestTest, SkipsMembersThatItDoesNotKnow) {
  const std::string text = Replaced("\"bytes\":90", "\"bytes\":90,\"news\":[{}]");
  EXPECT_EQ(SerializePackedManifest(ParsePackedManifest(text, "p")),
            SerializePackedManifest(Whole()));
}

TEST(PackedManifestTest, SortsFiles) {
  PackedManifest manifest = Whole();
  std::swap(manifest.files[0], manifest.files[1]);
  EXPECT_EQ(SerializePackedManifest(ParsePackedManifest(SerializePackedManifest(manifest), "p")),
            SerializePackedManifest(Whole()));
}

TEST(PackedManifestTest, RefusesForeignOnes) {
  ExpectMalformed(Replaced("dsv3-packed", "dsv4-packed"), "\"format\" is not");
  ExpectMalformed(Replaced("\"version\": 1,\n", ""), "no member \"version\"");
  ExpectMalformed(Replaced("\"name\":\"config.json\",", ""), "no member \"name\"");
  ExpectMalformed(Replaced("\"bytes\":2,", ""), "no member \"bytes\"");
  ExpectMalformed(Replaced("\"bytes\":90,", ""), "no member \"bytes\"");
  ExpectMalformed(Replaced("\"dtype\":\"BF16\",", ""), "no member \"dtype\"");
  ExpectMalformed(Replaced("BF16", "BF17"), "unknown dtype");
  ExpectMalformed(Replaced("\"bytes\":2,", "\"bytes\":2,\"bytes\":2,"), "two members");
  ExpectMalformed(Replaced("[2,3]", "[4294967296,4294967296]"), "has no byte size");
  ExpectMalformed(Replaced(kA, kA.substr(1)), "32 lowercase hex digits");
  ExpectMalformed(Replaced(kSha, std::string(64, 'A')), "64 lowercase hex digits");
}

// It is not damaged: another program can read it.
TEST(PackedManifestTest, RefusesOtherVersions) {
  const std::string text = Replaced("\"version\": 1", "\"version\": 2");
  testing::ExpectBadInput([&] { ParsePackedManifest(text, "packed.json"); },
                          "packed.json: ", "of version 2, and this program knows version 1 alone",
                          "; unpack it with the program that packed it, or a newer one");
}

TEST(PackedManifestTest, RefusesNamesThatLeaveTheDirectoryOrMeet) {
  for (const std::string name :
       {"", "/etc/passwd", "../x", "sub/../../x", "sub//x", "./x", "x\\u0000y"}) {
    ExpectMalformed(Replaced("config.json", name), "it lists file");
  }
  ExpectMalformed(Replaced("\"file\":\"model", "\"file\":\"../model"), "it lists file");
  ExpectMalformed(Replaced("config.json", "model.safetensors.packed"), "two files at");
  ExpectMalformed(Replaced("config.json", "packed.json"), "two files at 'packed.json'");
  ExpectMalformed(Replaced("config.json", "model.safetensors"), "two files at 'model.safetensors'");
}

TEST(PackedManifestTest, RefusesTensorsOfNoPackedFile) {
  ExpectMalformed(Replaced("\"file\":\"model.safetensors\"", "\"file\":\"other\""),
                  "which is not among the packed files");
  ExpectMalformed(Replaced("\"file\":\"model.safetensors\"", "\"file\":\"config.json\""),
                  "which is not among the packed files");
  ExpectMalformed(Replaced("\"name\":\"b\"", "\"name\":\"a\""), "is listed twice");
}

TEST(PackedManifestTest, EveryFlippedBitIsRefused) {
  const std::string text = SerializePackedManifest(Whole());
  for (std::size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    testing::ExpectBadInput([&] { ParsePackedManifest(flipped, "p"); }, "p: ");
  }
}

TEST(PackedManifestTest, NeedsItsDigest) {
  const std::string text = SerializePackedManifest(Whole());
  const std::size_t at = text.rfind("\"list_xxh3_128\"");
  ExpectMalformed(text.substr(0, at - 2) + "\n}\n", "no member \"list_xxh3_128\"");
}

TEST(PackedManifestTest, EveryPrefixIsRefused) {
  const std::string text = SerializePackedManifest(Whole());
  for (std::size_t size = 0; size + 1 < text.size(); ++size) {
    testing::ExpectBadInput([&] { ParsePackedManifest(text.substr(0, size), "p"); }, "p: ");
  }
}

}  // namespace
}  // namespace dsv3::convert
