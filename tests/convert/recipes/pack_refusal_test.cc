// What pack and unpack refuse.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/unpack.h"
#include "formats/safetensors.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/convert/recipes/pack_test.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadFile;
using testing::WriteFile;

class PackRefusalTest : public testing::PackTest {
 protected:
  Error PackRefusal(ErrorCode code) const {
    const Error error = ErrorOf([&] { Pack(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_FALSE(fs::exists(packed()));
    return error;
  }

  // Replaces text in packed.json, which must be there.
  void Edit(const std::string& from, const std::string& to) const {
    std::string text = ReadFile(packed() / "packed.json");
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    WriteFile(packed() / "packed.json", testing::SignedList(text.replace(at, from.size(), to)));
  }

  const std::string long_packed_ = std::string(testing::kLongShard) + ".packed";
};

TEST_F(PackRefusalTest, AnIndexedShardThatIsMissing) {
  fs::remove(in() / testing::kLongShard);
  EXPECT_EQ(PackRefusal(ErrorCode::kBadInput).place().file, testing::kLongShard);
}

TEST_F(PackRefusalTest, AnIndexedShardThatIsADeadLink) {
  fs::remove(in() / testing::kLongShard);
  fs::create_symlink("../blobs/gone", in() / testing::kLongShard);
  EXPECT_THAT(PackRefusal(ErrorCode::kBadInput).message(),
              HasSubstr("this shard is a dead link, a symlink to ../blobs/gone"));
}

TEST_F(PackRefusalTest, AnIndexThatListsNothing) {
  WriteFile(in() / testing::kIndexFile, R"({"weight_map": {}})");
  EXPECT_EQ(PackRefusal(ErrorCode::kBadInput).place().file, testing::kIndexFile);
}

TEST_F(PackRefusalTest, AFileThatIsNoSafetensorsFile) {
  WriteFile(in() / "more/pointer.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_EQ(PackRefusal(ErrorCode::kBadInput).place().file, "more/pointer.safetensors");
}

TEST_F(PackRefusalTest, ADirectoryWithoutSafetensorsFiles) {
  fs::remove_all(in());
  WriteFile(in() / "config.json", "{}");
  EXPECT_THAT(PackRefusal(ErrorCode::kBadInput).message(), HasSubstr("no checkpoint"));
}

TEST_F(PackRefusalTest, WhatIsPackedAlready) {
  Pack();
  const Error error = ErrorOf([&] { Pack(packed(), dir_ / "twice").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("packed already"));
}

TEST_F(PackRefusalTest, TwoFilesOfOneName) {
  WriteFile(in() / long_packed_, "of somebody");
  EXPECT_EQ(PackRefusal(ErrorCode::kBadInput).place().file, long_packed_);
}

TEST_F(PackRefusalTest, AnUnfinishedConversion) {
  WriteFile(in() / ".dsv3-journal", "torn");
  fs::remove(in() / testing::kIndexFile);
  PackRefusal(ErrorCode::kBadInput);
}

TEST_F(PackRefusalTest, AnOutputInsideTheInput) {
  for (const bool unpack : {false, true}) {
    const Error error =
        ErrorOf([&] { (unpack ? Unpack(in(), in() / "out") : Pack(in(), in() / "out")).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr("inside the input directory"));
  }
  EXPECT_FALSE(fs::exists(in() / "out"));
}

TEST_F(PackRefusalTest, UnpackingWhatIsNotPacked) {
  const Error error = ErrorOf([&] { Unpack(in(), out()).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("there is no packed.json"));
}

TEST_F(PackRefusalTest, UnpackingWhatIsNoDirectory) {
  const auto message = [&](const fs::path& input) {
    const Error error = ErrorOf([&] { Unpack(input, out()).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.message();
  };
  EXPECT_THAT(message(dir_ / "nowhere"), HasSubstr("there is no such file or directory"));
  fs::create_symlink("gone", dir_ / "link");
  EXPECT_THAT(message(dir_ / "link"), HasSubstr("a dead link, a symlink to gone"));
  fs::create_symlink("circle", dir_ / "circle");
  EXPECT_THAT(message(dir_ / "circle"), HasSubstr("its symlinks form a loop"));
  EXPECT_THAT(message(in() / "README.md"), HasSubstr("it is a file, not the directory"));
}

TEST_F(PackRefusalTest, UnpackingWhatPackDidNotComplete) {
  Pack();
  fs::remove(packed() / "packed.json");
  EXPECT_THAT(ErrorOf([&] { Unpack(); }).message(), HasSubstr("there is no packed.json"));
}

TEST_F(PackRefusalTest, APackedFileThatIsMissing) {
  Pack();
  fs::remove(packed() / long_packed_);
  UnpackRefusal(ErrorCode::kBadInput, long_packed_);
}

TEST_F(PackRefusalTest, APackedFileThatWasCutOff) {
  Pack();
  fs::resize_file(packed() / long_packed_, fs::file_size(packed() / long_packed_) - 1);
  EXPECT_THAT(UnpackRefusal(ErrorCode::kBadInput, long_packed_).message(), HasSubstr("cut off"));
}

TEST_F(PackRefusalTest, PackedFilesThatChangedPlaces) {
  // The two have the same header and size: only the digests tell them from each other.
  const std::string header = "{" + testing::Entry("same", "U8", "[5000]", 0, 5000) + "}";
  for (const std::string name : {"x.safetensors", "y.safetensors"}) {
    WriteFile(in() / name, testing::SafetensorsFile(header, 0) +
                               testing::RandomBytes(5000, static_cast<std::uint64_t>(name[0])));
  }
  Pack();
  const fs::path x = packed() / "x.safetensors.packed";
  const fs::path y = packed() / "y.safetensors.packed";
  ASSERT_EQ(fs::file_size(x), fs::file_size(y));
  fs::rename(x, packed() / "z");
  fs::rename(y, x);
  fs::rename(packed() / "z", y);
  fs::remove_all(out());
  const Error error = ErrorOf([&] { Unpack(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  // Both are wrong, and either may be found first.
  EXPECT_THAT(error.place().file, ::testing::AnyOf("x.safetensors", "y.safetensors"));
  EXPECT_EQ(error.place().tensor, "same");
  EXPECT_FALSE(fs::exists(out() / "x.safetensors"));
  EXPECT_FALSE(fs::exists(out() / "y.safetensors"));
}

TEST_F(PackRefusalTest, AFileOfAnotherPackedCheckpoint) {
  Pack();
  // Other tensors, and the same size.
  testing::TinyCheckpoint other;
  other.Add(testing::kLongShard, "wrong", formats::Dtype::kU8, {8});
  other.config = "{}";
  other.Write(dir_ / "other");
  Pack(dir_ / "other", dir_ / "other-packed").Run();
  const std::string content = ReadFile(dir_ / "other-packed" / long_packed_);
  WriteFile(packed() / long_packed_, content);
  const std::uint64_t bytes = Manifest().FindFile(testing::kLongShard)->packed_bytes;
  Edit(std::to_string(bytes), std::to_string(content.size()));
  EXPECT_THAT(UnpackRefusal(ErrorCode::kBadInput, long_packed_).message(),
              HasSubstr("does not hold the tensors"));
}

TEST_F(PackRefusalTest, ABitThatFlippedInAnyFile) {
  Pack();
  const auto files = testing::ReadTree(packed());
  for (const auto& [name, content] : files) {
    if (content.empty() || name == "packed.json") continue;
    for (const std::size_t part : {0U, 2U, 5U, 8U, 9U}) {
      const std::size_t offset = std::min(content.size() - 1, content.size() * part / 9);
      SCOPED_TRACE(name + " at " + std::to_string(offset));
      Flip(packed() / name, offset);
      fs::remove_all(out());
      try {
        Unpack();
        auto tree = testing::ReadTree(out());
        tree.erase(testing::kManifestFile);
        EXPECT_EQ(tree, testing::ReadTree(in()));
      } catch (const Error& error) {
        UnpackRefusal(ErrorCode::kBadInput, error.place().file);
        EXPECT_EQ(error.place().file.substr(0, name.find(".packed")),
                  name.substr(0, name.find(".packed")));
      }
      WriteFile(packed() / name, content);
    }
  }
}

TEST_F(PackRefusalTest, ADigestThatTheFileDoesNotHave) {
  Pack();
  const PackedManifest manifest = Manifest();
  const std::string good = ReadFile(packed() / "packed.json");
  const auto other = [](std::string digest) {
    digest[0] = digest[0] == 'a' ? 'b' : 'a';
    return digest;
  };
  for (const std::string name : {testing::kLongShard, testing::kIndexFile, "README.md"}) {
    const std::string digest = manifest.FindFile(name)->sha256;
    Edit(digest, other(digest));
    UnpackRefusal(ErrorCode::kBadInput, name);
    WriteFile(packed() / "packed.json", good);
  }
  for (const PackedManifestTensor& tensor : manifest.tensors) {
    if (tensor.name != "scale") continue;
    Edit(tensor.xxh3, other(tensor.xxh3));
    EXPECT_EQ(UnpackRefusal(ErrorCode::kBadInput, testing::kLongShard).place().tensor, "scale");
  }
}

TEST_F(PackRefusalTest, AManifestOfInThatChanged) {
  WriteFile(in() / testing::kManifestFile, "a manifest");
  Pack();
  Flip(packed() / testing::kManifestFile, 1);
  UnpackRefusal(ErrorCode::kBadInput, testing::kManifestFile);
}

TEST_F(PackRefusalTest, ASizeThatTheFileDoesNotHave) {
  Pack();
  const std::size_t bytes = ReadFile(in() / testing::kLongShard).size();
  Edit("\"bytes\":" + std::to_string(bytes) + ",", "\"bytes\":9223372036854775807,");
  const Error error = ErrorOf([&] { Unpack(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().file, long_packed_);
  EXPECT_THAT(error.message(), HasSubstr("but packed.json says 9.2 EB"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(PackRefusalTest, NamesThatAreNotThoseOfFiles) {
  Pack();
  const std::string good = ReadFile(packed() / "packed.json");
  for (const std::string name : {"../README.md", ".dsv3-journal", "a.partial"}) {
    Edit("\"README.md\"", "\"" + name + "\"");
    const Error error = ErrorOf([&] { Unpack(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << name;
    EXPECT_EQ(error.place().file, "packed.json") << name;
    EXPECT_FALSE(fs::exists(out())) << name;
    WriteFile(packed() / "packed.json", good);
  }
}

TEST_F(PackRefusalTest, AGlobThatMatchesNothing) {
  Pack();
  Conversion conversion = Unpack(packed(), out());
  conversion.kind = UnpackConversion({.tensors = {"scale", "nothing.*"}});
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("nothing.*"));
}

}  // namespace
}  // namespace dsv3::convert
