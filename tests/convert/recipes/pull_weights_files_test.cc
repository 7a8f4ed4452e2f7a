// Weight deltas that others wrote, or that are not what they seem: of each the value would have the
// right checksum, so that nothing but the check itself refuses it.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/safetensors.h"
#include "tests/convert/recipes/zstd_frame_text.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/support/training_files.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::HasSubstr;

constexpr char kShard[] = "model.safetensors";
constexpr char kDeltas[] = "model-00000-of-00001.safetensors";
constexpr char kOld[] = "Wikimedia";
constexpr char kNew[] = "Wikipedia";
constexpr char kAdler32OfNew[] = "11e60398";

std::string Xor(std::string_view a, std::string_view b) {
  std::string differences(a);
  for (std::size_t i = 0; i < a.size(); ++i) {
    differences[i] = static_cast<char>(differences[i] ^ b[i]);
  }
  return differences;
}

std::string Overwrite(std::uint32_t count, const std::vector<std::uint32_t>& positions,
                      const std::string& bytes) {
  std::string content(reinterpret_cast<const char*>(&count), sizeof count);
  content.append(reinterpret_cast<const char*>(positions.data()), 4 * positions.size());
  return content + bytes;
}

// A tensor of a file of weight deltas.
struct Frame {
  std::string content = Xor(kOld, kNew);
  std::string checksum = Xxh3Of(kNew);
  std::string name = "w";
  Dtype dtype = Dtype::kU8;
  std::size_t rows = 0;  // of a matrix; 0: it is a vector
};

class PullWeightsFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TinyCheckpoint base;
    base.config = TinyConfig();
    base.Add(kShard, "w", Dtype::kU8, {9}).bytes = kOld;
    base.Write(base_);
    WriteIndex();
    WriteFrame({});
  }

  void WriteIndex(const std::string& encoding = "xor", const std::string& checksum = "xxh3-128",
                  const std::string& more = "") const {
    WriteFile(
        deltas_ / "model.safetensors.index.json",
        R"({"metadata": {"version": "000002", "base_version": "000001", "delta_encoding": ")" +
            encoding + R"(", "compression_format": "zstd", "checksum_format": ")" + checksum +
            R"("}, "weight_map": {"w": ")" + kDeltas + "\"" + more + "}}");
  }

  void WriteFrame(const Frame& frame, const char* file = kDeltas) const {
    std::string bytes = ZstdFrame(frame.content);
    if (frame.rows != 0 && bytes.size() % 2 != 0) bytes += '\0';
    formats::SafetensorsTensor tensor{frame.name, frame.dtype, {bytes.size()}, 0, bytes.size()};
    if (frame.rows != 0) tensor.shape = {frame.rows, bytes.size() / frame.rows};
    formats::SafetensorsMetadata metadata;
    if (!frame.checksum.empty()) metadata.emplace_back(frame.name, frame.checksum);
    WriteFile(deltas_ / file, formats::SerializeSafetensorsHeader({tensor}, metadata) + bytes);
  }

  void Unpack() const {
    fs::remove_all(out_);
    Conversion conversion(deltas_, out_, convert::UnpackConversion());
    conversion.request.run.base = base_;
    conversion.Run();
  }

  void ExpectRefused(const std::string& problem) const {
    const Error error = ErrorOf([&] { Unpack(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << problem;
    EXPECT_THAT(error.message(), HasSubstr(problem));
    EXPECT_FALSE(fs::exists(out_ / kShard)) << problem;
  }
  void ExpectFrameRefused(const Frame& frame, const std::string& problem) const {
    WriteFrame(frame);
    ExpectRefused(problem);
  }

  TempDir dir_{MemoryDirectory()};
  const fs::path base_ = dir_ / "base";
  const fs::path deltas_ = dir_ / "deltas";
  const fs::path out_ = dir_ / "out";
};

TEST_F(PullWeightsFilesTest, AreReadWithEitherChecksum) {
  Unpack();
  const std::string made = ReadFile(out_ / kShard);
  EXPECT_TRUE(made.ends_with(kNew));
  WriteIndex("xor", "adler32");
  WriteFrame({.checksum = kAdler32OfNew});
  Unpack();
  EXPECT_EQ(ReadFile(out_ / kShard), made);
  ExpectFrameRefused({.checksum = "11e60397"}, "w");
  ExpectFrameRefused({.content = std::string(9, '\0'), .checksum = kAdler32OfNew}, "w");
}

// Of sums that pass the modulus, as zlib's adler32 gives it.
TEST_F(PullWeightsFilesTest, ChecksumsOfManyBytesAreThoseOfZlib) {
  const std::string ones(12'000, '\xFF');
  TinyCheckpoint base;
  base.config = TinyConfig();
  base.Add(kShard, "w", Dtype::kU8, {ones.size()}).bytes = std::string(ones.size(), '\0');
  fs::remove_all(base_);
  base.Write(base_);
  WriteIndex("xor", "adler32");
  WriteFrame({.content = ones, .checksum = "09b1b3d3"});
  Unpack();
  EXPECT_TRUE(ReadFile(out_ / kShard).ends_with(ones));
}

TEST_F(PullWeightsFilesTest, AnotherBaseIsRefused) {
  TinyCheckpoint other;
  other.config = TinyConfig();
  other.Add(kShard, "w", Dtype::kU8, {9}).bytes = "Wikimania";
  other.Write(base_);
  ExpectRefused("tensor 'w': its digest is not the recorded one, so the base is not the one");
}

TEST_F(PullWeightsFilesTest, DifferencesOfAnotherSizeAreRefused) {
  const std::string problem = "it does not say that it holds as many bytes as it must";
  ExpectFrameRefused({.content = Xor(kOld, kNew) + '\0'}, problem);
  ExpectFrameRefused({.content = Xor(kOld, kNew).substr(0, 8)}, problem);
}

TEST_F(PullWeightsFilesTest, OverwritesThatLieAreRefused) {
  WriteIndex("overwrite");
  WriteFrame({.content = Overwrite(1, {4}, "p")});
  Unpack();
  const std::string made = ReadFile(out_ / kShard);
  EXPECT_TRUE(made.ends_with(kNew));
  const std::string no_positions = "it does not say that it holds positions and bytes";
  ExpectFrameRefused({.content = "\1"}, no_positions);
  ExpectFrameRefused({.content = Overwrite(1, {4}, "pq")}, no_positions);
  ExpectFrameRefused({.content = Overwrite(10, std::vector<std::uint32_t>(10, 4), "pppppppppp")},
                     no_positions);
  ExpectFrameRefused({.content = Overwrite(0, {4}, "p")},
                     "it has another number of positions than it says");
  ExpectFrameRefused({.content = Overwrite(2, {4, 9}, "px")},
                     "it has positions behind the tensor's end");
}

TEST_F(PullWeightsFilesTest, TensorsThatAreNoFramesAreRefused) {
  const std::string problem = "tensor 'w' is no vector of U8 whose checksum the metadata has";
  ExpectFrameRefused({.dtype = Dtype::kI8}, problem);
  ExpectFrameRefused({.rows = 2}, problem);
  ExpectFrameRefused({.checksum = ""}, problem);
}

TEST_F(PullWeightsFilesTest, FilesAndIndexMustAgree) {
  WriteFrame({.name = "v"}, "model-00001-of-00002.safetensors");
  ExpectRefused("it holds tensor 'v', which the index does not list");
  WriteIndex("xor", "xxh3-128", R"(, "v": "model-00001-of-00001.safetensors")");
  ExpectRefused("it holds tensor 'v', which the index does not list");
  WriteIndex("xor", "xxh3-128", R"(, "v": "model-00001-of-00002.safetensors")");
  ExpectRefused("tensor 'v' changed, but the base has none of this name");
  fs::remove(deltas_ / "model-00001-of-00002.safetensors");
  ExpectRefused("the index lists tensor 'v' there, which is missing");
  WriteIndex("xor", "xxh3-128", std::string(R"(, "w": ")") + kDeltas + "\"");
  ExpectRefused("is listed twice");
}

TEST_F(PullWeightsFilesTest, ATrainingCheckpointIsNoBase) {
  fs::remove_all(base_);
  WriteTorchFiles(ElementModel(), 1, base_);
  ExpectRefused("it is a training checkpoint, and weight deltas are of a model with shards");
}

TEST_F(PullWeightsFilesTest, AreNotDeletedWhileTheyAreRead) {
  Conversion conversion(deltas_, out_);
  conversion.request.run.base = base_;
  conversion.request.run.delete_source_shards = true;
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("weight deltas and their base are needed whole"));
}

class PackPullWeightsTest : public PullWeightsFilesTest {
 protected:
  Error Refusal(bool idempotent) const {
    return ErrorOf([&] {
      Conversion(dir_ / "in", out_,
                 convert::PackConversion({.base = base_,
                                          .form = convert::PackForm::kPullWeights,
                                          .weight_version = 2,
                                          .idempotent = idempotent}))
          .Run();
    });
  }
};

TEST_F(PackPullWeightsTest, ATensorInTwoFilesIsRefused) {
  TinyCheckpoint twice;
  twice.config = TinyConfig();
  twice.has_index = false;
  for (const char* const shard : {"a.safetensors", "b.safetensors"}) {
    twice.Add(shard, "w", Dtype::kU8, {9}).bytes = kNew;
  }
  twice.Write(dir_ / "in");
  const Error error = Refusal(false);
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_THAT(error.message(), HasSubstr("is in another file, too"));
}

// Nothing of it is read, so holes do.
TEST_F(PackPullWeightsTest, PositionsOfMoreThan32BitsAreRefused) {
  const std::uint64_t bytes = std::uint64_t{1} << 32;
  const std::string head = formats::SerializeSafetensorsHeader(
      {{.name = "w", .dtype = Dtype::kU8, .shape = {bytes}, .begin = 0, .end = bytes}}, {});
  for (const fs::path& directory : {dir_ / "in", base_}) {
    fs::remove_all(directory);
    WriteFile(directory / kShard, head);
    WriteFile(directory / "config.json", TinyConfig());
    fs::resize_file(directory / kShard, head.size() + bytes);
  }
  const Error error = Refusal(true);
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_THAT(error.message(), HasSubstr("leave out --idempotent"));
  EXPECT_EQ(error.place().tensor, "w");
}

}  // namespace
}  // namespace dsv3::testing
