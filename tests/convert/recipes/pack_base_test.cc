// dsv3-convert pack and unpack with --base.

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/packing/packed_manifest.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
#include "formats/safetensors.h"
#include "tests/convert/recipes/pack_test.h"
#include "tests/convert/support/digest_oracle.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadFile;
using testing::ReadTree;
using testing::TinyCheckpoint;

constexpr char kShard[] = "model.safetensors";
constexpr std::uint64_t kRows = 700;
constexpr std::uint64_t kCols = 1100;

// A base, and a checkpoint of which a part of the values moved: other shards, a tensor of another
// shape, one more and one less.
class PackBaseTest : public testing::PackTest {
 protected:
  void SetUp() override {
    TinyCheckpoint base = Common();
    base.Add("model-00002-of-00002.safetensors", "gone", Dtype::kF32, {12});
    base.Add("model-00002-of-00002.safetensors", "reshaped", Dtype::kF32, {4, 3});
    base.Write(base_);
    TinyCheckpoint changed = Common();
    std::string& bytes = changed.Find("w").bytes;
    for (std::size_t i = 0; i < bytes.size(); i += 400) bytes[i] = static_cast<char>(bytes[i] + 1);
    for (testing::TinyTensor& tensor : changed.tensors) tensor.shard = kShard;
    changed.Add(kShard, "new", Dtype::kBF16, {9});
    changed.Add(kShard, "reshaped", Dtype::kF32, {3, 4});
    changed.has_index = false;
    changed.Write(in());
  }

  static TinyCheckpoint Common() {
    TinyCheckpoint checkpoint;
    checkpoint.config = testing::TinyConfig();
    checkpoint.Add("model-00001-of-00002.safetensors", "w", Dtype::kBF16, {kRows, kCols}).bytes =
        testing::WeightBytes(kRows * kCols, 5);
    checkpoint.Add("model-00001-of-00002.safetensors", "ids", Dtype::kI64, {33});
    checkpoint.Add("model-00002-of-00002.safetensors", "codes", Dtype::kU8, {5000});
    checkpoint.Add("model-00002-of-00002.safetensors", "none", Dtype::kF16, {0});
    return checkpoint;
  }

  Conversion PackOn(const fs::path& base) const {
    return {in(), packed(), PackConversion({.base = base})};
  }
  Conversion UnpackOn(const fs::path& base) const {
    Conversion conversion = Unpack(packed(), out());
    conversion.request.run.base = base;
    return conversion;
  }

  void ExpectOriginal() const {
    auto tree = ReadTree(out());
    tree.erase(testing::kManifestFile);
    EXPECT_EQ(tree, ReadTree(in()));
  }

  const PackedManifestTensor& Listed(const PackedManifest& manifest, const std::string& name) {
    for (const PackedManifestTensor& tensor : manifest.tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(name);
  }

  const fs::path base_ = dir_ / "base";
};

TEST_F(PackBaseTest, TheDifferencesGiveEveryFileBack) {
  const ConversionReport report = PackOn(base_).Run();
  EXPECT_LT(report.output_bytes, report.source_bytes / 20);
  const PackedManifest manifest = Manifest();
  EXPECT_TRUE(manifest.NeedsBase());
  EXPECT_EQ(Listed(manifest, "w").base_xxh3, testing::Xxh3Of(Common().Find("w").bytes));
  EXPECT_EQ(Listed(manifest, "none").base_xxh3, testing::Xxh3Of(""));
  for (const std::string name : {"new", "reshaped"}) {
    EXPECT_EQ(Listed(manifest, name).base_xxh3, "") << name;
  }
  UnpackOn(base_).Run();
  ExpectOriginal();
  EXPECT_EQ(PackOn(base_).Run().outcome, ConversionReport::Outcome::kNothingToDo);
  EXPECT_EQ(UnpackOn(base_).Run().outcome, ConversionReport::Outcome::kNothingToDo);
}

TEST_F(PackBaseTest, BytesDependOnNoOption) {
  PackOn(base_).Run();
  for (const unsigned threads : {1U, 4U}) {
    for (const std::uint64_t memory : {std::uint64_t{8} << 20, std::uint64_t{300} << 20}) {
      Conversion conversion = PackOn(base_);
      conversion.request.output = dir_ / "again";
      conversion.request.run.threads = threads;
      conversion.request.run.memory_bytes = memory;
      fs::remove_all(dir_ / "again");
      conversion.Run();
      EXPECT_EQ(ReadTree(dir_ / "again"), ReadTree(packed()));
    }
  }
}

TEST_F(PackBaseTest, APackedBaseGivesTheSame) {
  PackOn(base_).Run();
  Pack(base_, dir_ / "base-packed").Run();
  UnpackOn(dir_ / "base-packed").Run();
  ExpectOriginal();
  const auto expected = ReadTree(packed());
  fs::remove_all(packed());
  PackOn(dir_ / "base-packed").Run();
  EXPECT_EQ(ReadTree(packed()), expected);
}

TEST_F(PackBaseTest, AnFp8BaseServesForItsBf16) {
  fs::remove_all(base_);
  fs::remove_all(in());
  testing::SmallFp8Checkpoint().Write(base_);
  Conversion(base_, in(), Fp8ToBf16Conversion()).Run();
  PackOn(base_).Run();
  const PackedManifest manifest = Manifest();
  for (const PackedManifestTensor& tensor : manifest.tensors) {
    EXPECT_NE(tensor.base_xxh3, "") << tensor.name;
    EXPECT_EQ(tensor.base_xxh3, tensor.xxh3) << tensor.name;
  }
  UnpackOn(base_).Run();
  EXPECT_EQ(ReadTree(out()), ReadTree(in()));
}

TEST_F(PackBaseTest, SomeTensorsNeedTheBaseOnlyWhereTheyWerePackedAgainstIt) {
  PackOn(base_).Run();
  const Conversion alone(packed(), out(), UnpackConversion({.tensors = {"new"}}));
  EXPECT_EQ(alone.Run().tensors, 1U);
  Conversion needed(packed(), dir_ / "w", UnpackConversion({.tensors = {"w"}}));
  EXPECT_EQ(ErrorOf([&] { needed.Run(); }).code(), ErrorCode::kUsage);
  needed.request.run.base = base_;
  EXPECT_EQ(needed.Run().tensors, 1U);
}

TEST_F(PackBaseTest, ABaseThatIsMissingOrNotNeeded) {
  PackOn(base_).Run();
  const Error missing = ErrorOf([&] { Unpack(); });
  EXPECT_EQ(missing.code(), ErrorCode::kUsage);
  EXPECT_THAT(missing.message(), HasSubstr("--base DIR"));
  fs::remove_all(packed());
  Pack();
  const Error needless = ErrorOf([&] { UnpackOn(base_).Run(); });
  EXPECT_EQ(needless.code(), ErrorCode::kUsage);
  EXPECT_THAT(needless.message(), HasSubstr("needs no base"));
  fs::remove_all(packed());
  TinyCheckpoint other;
  other.config = testing::TinyConfig();
  other.Add(kShard, "of another model", Dtype::kBF16, {4});
  other.Write(dir_ / "other");
  EXPECT_EQ(ErrorOf([&] { PackOn(dir_ / "other").Run(); }).code(), ErrorCode::kUsage);
  EXPECT_FALSE(fs::exists(packed()));
}

TEST_F(PackBaseTest, ADeltaIsNoBase) {
  PackOn(base_).Run();
  const Conversion conversion(in(), dir_ / "chain", PackConversion({.base = packed()}));
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("unpack it first"));
}

TEST_F(PackBaseTest, AFinishedOutputIsOfItsBase) {
  PackOn(base_).Run();
  EXPECT_EQ(PackOn(base_).Run().outcome, ConversionReport::Outcome::kNothingToDo);
  TinyCheckpoint other = Common();
  other.Add("model-00002-of-00002.safetensors", "reshaped", Dtype::kF32, {4, 3});
  for (testing::TinyTensor& tensor : other.tensors) {
    for (char& byte : tensor.bytes) byte = static_cast<char>(byte ^ 1);
  }
  other.Write(dir_ / "other");
  const auto before = ReadTree(packed());
  const Error error = ErrorOf([&] { PackOn(dir_ / "other").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("on another base: tensor"));
  EXPECT_EQ(ReadTree(packed()), before);
}

TEST_F(PackBaseTest, AnOutputInTheBase) {
  Conversion conversion = PackOn(base_);
  conversion.request.output = base_ / "out";
  EXPECT_EQ(ErrorOf([&] { conversion.Run(); }).code(), ErrorCode::kUsage);
}

TEST_F(PackBaseTest, AnotherShapeInTheBaseIsFoundBeforeWeightsAreRead) {
  PackOn(base_).Run();
  TinyCheckpoint other = Common();
  other.Find("codes").shape = {2500, 2};
  other.Write(dir_ / "other");
  const Error error = ErrorOf([&] { UnpackOn(dir_ / "other").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "codes");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(PackBaseTest, ABaseWithAnotherValueStopsByName) {
  PackOn(base_).Run();
  TinyCheckpoint other = Common();
  std::string& bytes = other.Find("w").bytes;
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  other.Write(dir_ / "other");
  const Error error = ErrorOf([&] { UnpackOn(dir_ / "other").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "w");
  EXPECT_FALSE(fs::exists(out() / kShard));
  EXPECT_FALSE(fs::exists(out() / testing::kManifestFile));
}

}  // namespace
}  // namespace dsv3::convert
