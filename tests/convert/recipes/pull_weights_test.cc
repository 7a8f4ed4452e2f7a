// Weight deltas for SGLang's /pull_weights.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/open/open_model.h"
#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_bytes.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "formats/safetensors.h"
#include "tests/convert/recipes/pack_test.h"
#include "tests/convert/recipes/zstd_frame_text.h"
#include "tests/convert/support/digest_oracle.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using nlohmann::json;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadFile;
using testing::ReadTree;
using testing::TinyCheckpoint;
using testing::WriteFile;

constexpr char kFirst[] = "model-00001-of-00002.safetensors";
constexpr char kSecond[] = "model-00002-of-00002.safetensors";
constexpr char kFirstDeltas[] = "model-00000-of-00002.safetensors";

// A safetensors file: its header, and the bytes of a tensor.
json HeaderOf(const std::string& file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return json::parse(file.substr(sizeof length, length));
}

class PullWeightsTest : public testing::PackTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    TinyCheckpoint checkpoint = Model();
    checkpoint.Write(base_);
    Change(checkpoint);
    checkpoint.Write(in());
  }

  static TinyCheckpoint Model() {
    TinyCheckpoint checkpoint;
    checkpoint.config = testing::TinyConfig();
    checkpoint.Add(kFirst, "w", Dtype::kBF16, {1700, 900}).bytes =
        testing::WeightBytes(1700 * 900, 5);
    checkpoint.Add(kFirst, "still", Dtype::kF32, {33});
    checkpoint.Add(kSecond, "ids", Dtype::kI64, {40});
    checkpoint.Add(kSecond, "none", Dtype::kF16, {0});
    checkpoint.side_files = {{"tokenizer.json", "{}"}};
    return checkpoint;
  }

  // Not in the first chunk of "w", and in its last byte.
  static void Change(TinyCheckpoint& checkpoint) {
    std::string& bytes = checkpoint.Find("w").bytes;
    for (std::size_t i = bytes.size() / 2 + 1; i < bytes.size(); i += 200) bytes[i] ^= 1;
    bytes.back() = static_cast<char>(bytes.back() + 1);
    checkpoint.Find("ids").bytes[7] ^= 0x40;
  }

  Conversion PackDeltas(bool idempotent, std::uint64_t version = 7) const {
    return {in(), packed(),
            PackConversion({.base = base_,
                            .form = PackForm::kPullWeights,
                            .weight_version = version,
                            .idempotent = idempotent})};
  }
  Conversion UnpackOn(const fs::path& base, const UnpackOptions& options = {}) const {
    Conversion conversion(packed(), out(), UnpackConversion(options));
    conversion.request.run.base = base;
    return conversion;
  }

  // Reads "w" from the deltas in pieces, on this thread.
  void ExpectPieces() const {
    TinyCheckpoint changed = Model();
    Change(changed);
    const std::string& value = changed.Find("w").bytes;
    const OpenedModel model = OpenModel(packed(), {.mtp_may_be_missing = true, .base = base_});
    SourceFiles sources(model.assembled->stored);
    const ExpressionPtr w = OriginOf(model, model.catalog.Find("w"));
    constexpr std::uint64_t kPiece = 700'000;
    for (const std::uint64_t piece : {0U, 1U, 3U, 2U, 2U, 0U, 4U}) {
      const std::uint64_t begin = piece * kPiece;
      const std::uint64_t end = std::min<std::uint64_t>(value.size(), begin + kPiece);
      EXPECT_TRUE(testing::AsString(ReadValue(*w, {begin, end}, sources)) ==
                  value.substr(begin, end - begin))
          << piece;
    }
  }

  const fs::path base_ = dir_ / "base";
};

TEST_P(PullWeightsTest, HoldWhatChangedAlone) {
  PackDeltas(GetParam()).Run();
  const json index = json::parse(ReadFile(packed() / testing::kIndexFile));
  EXPECT_EQ(index["metadata"], (json{{"version", "000007"},
                                     {"base_version", "000006"},
                                     {"delta_encoding", GetParam() ? "overwrite" : "xor"},
                                     {"compression_format", "zstd"},
                                     {"checksum_format", "xxh3-128"}}));
  EXPECT_EQ(index["weight_map"],
            (json{{"w", kFirstDeltas}, {"ids", "model-00001-of-00002.safetensors"}}));
  const json header = HeaderOf(ReadFile(packed() / kFirstDeltas));
  EXPECT_FALSE(header.contains("still"));
  EXPECT_EQ(header["w"]["dtype"], "U8");
  TinyCheckpoint changed = Model();
  Change(changed);
  EXPECT_EQ(header["__metadata__"], (json{{"w", testing::Xxh3Of(changed.Find("w").bytes)}}));
  EXPECT_LT(fs::file_size(packed() / kFirstDeltas), changed.Find("w").bytes.size() / 20);
}

TEST_P(PullWeightsTest, GiveTheFilesOfTheNextVersion) {
  const ConversionReport report = PackDeltas(GetParam()).Run();
  EXPECT_EQ(report.outcome, ConversionReport::Outcome::kConverted);
  UnpackOn(base_).Run();
  auto made = ReadTree(out());
  made.erase(testing::kManifestFile);
  EXPECT_EQ(made, ReadTree(in()));
  EXPECT_EQ(PackDeltas(GetParam()).Run().outcome, ConversionReport::Outcome::kNothingToDo);
}

TEST_P(PullWeightsTest, BytesDependOnNoOption) {
  PackDeltas(GetParam()).Run();
  for (const unsigned threads : {1U, 3U}) {
    Conversion conversion = PackDeltas(GetParam());
    conversion.request.output = dir_ / "again";
    conversion.request.run.threads = threads;
    conversion.request.run.memory_bytes = std::uint64_t{8 * threads} << 20;
    fs::remove_all(dir_ / "again");
    conversion.Run();
    EXPECT_EQ(ReadTree(dir_ / "again"), ReadTree(packed()));
  }
}

TEST_P(PullWeightsTest, AreReadLikeTheNextVersion) {
  PackDeltas(GetParam()).Run();
  CompareRequest request;
  request.a = packed();
  request.b = in();
  request.base = base_;
  ProgressSink progress;
  const StopToken stop;
  const CompareReport report = CompareCheckpoints(request, progress, stop);
  EXPECT_EQ(report.counts.identical_bytes, report.tensors.size());
  EXPECT_EQ(UnpackOn(base_, {.tensors = {"w"}}).Run().tensors, 1U);
}

// On one thread, which goes on from what it decoded last where it can.
TEST_P(PullWeightsTest, PiecesAreReadInAnyOrder) {
  PackDeltas(GetParam()).Run();
  ExpectPieces();
}

TEST_P(PullWeightsTest, AnotherVersionAsBaseIsNamedByTensor) {
  PackDeltas(GetParam()).Run();
  TinyCheckpoint other = Model();
  other.Find("w").bytes[5] ^= 1;
  other.Write(dir_ / "other");
  const Error error = ErrorOf([&] { UnpackOn(dir_ / "other").Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
  EXPECT_EQ(error.place().tensor, "w");
  EXPECT_FALSE(fs::exists(out() / kFirst));
  NumericRequest request;
  request.input = packed();
  request.base = dir_ / "other";
  ProgressSink progress;
  const StopToken stop;
  const Error read = ErrorOf([&] { VerifyNumeric(request, progress, stop); });
  EXPECT_EQ(read.code(), ErrorCode::kBadInput);
  EXPECT_EQ(read.place().tensor, "w");
}

TEST_P(PullWeightsTest, DamageIsNamedOrWithoutEffect) {
  PackDeltas(GetParam()).Run();
  const std::string good = ReadFile(packed() / kFirstDeltas);
  for (std::size_t place = 8; place < good.size(); place += good.size() / 37) {
    Flip(packed() / kFirstDeltas, place);
    fs::remove_all(out());
    const Error error = ErrorOf([&] { UnpackOn(base_).Run(); });
    if (error.code() == ErrorCode::kInternal) {  // nothing was thrown
      EXPECT_EQ(ReadFile(out() / kFirst), ReadFile(in() / kFirst)) << place;
    } else {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
      EXPECT_FALSE(fs::exists(out() / kFirst)) << place;
    }
    WriteFile(packed() / kFirstDeltas, good);
  }
}

TEST_P(PullWeightsTest, EveryByteOfALongTensorMayChange) {
  TinyCheckpoint changed = Model();
  for (char& byte : changed.Find("w").bytes) byte = static_cast<char>(byte ^ 3);
  fs::remove_all(in());
  changed.Write(in());
  PackDeltas(GetParam()).Run();
  Conversion unpack = UnpackOn(base_);
  unpack.request.run.threads = 3;
  unpack.Run();
  auto made = ReadTree(out());
  made.erase(testing::kManifestFile);
  EXPECT_TRUE(made == ReadTree(in()));
}

INSTANTIATE_TEST_SUITE_P(Encodings, PullWeightsTest, ::testing::Bool());

TEST_F(PullWeightsTest, PositionsMayHaveAnyOrder) {
  PackDeltas(true).Run();
  // Of "w", in pieces of a MiB: backwards, and a first value for one that another one replaces.
  const std::string old = Model().Find("w").bytes;
  TinyCheckpoint next = Model();
  Change(next);
  const std::string& value = next.Find("w").bytes;
  std::vector<std::uint32_t> positions = {5};
  std::string values = "?";
  for (std::size_t i = value.size(); i-- > 0;) {
    if (value[i] == old[i] && i != 5) continue;
    positions.push_back(static_cast<std::uint32_t>(i));
    values += value[i];
  }
  const auto count = static_cast<std::uint32_t>(positions.size());
  std::string content(reinterpret_cast<const char*>(&count), sizeof count);
  content.append(reinterpret_cast<const char*>(positions.data()), 4 * positions.size());
  const std::string frame = testing::ZstdFrame(content + values);
  WriteFile(packed() / kFirstDeltas,
            formats::SerializeSafetensorsHeader({{.name = "w",
                                                  .dtype = Dtype::kU8,
                                                  .shape = {frame.size()},
                                                  .begin = 0,
                                                  .end = frame.size()}},
                                                {{"w", testing::Xxh3Of(value)}}) +
                frame);
  UnpackOn(base_).Run();
  EXPECT_TRUE(ReadFile(out() / kFirst) == ReadFile(in() / kFirst));
  ExpectPieces();
}

TEST_F(PullWeightsTest, TensorsThatCameWentOrChangedTheirShapeAreRefused) {
  const auto refused = [&](const std::function<void(TinyCheckpoint&)>& edit) {
    TinyCheckpoint checkpoint = Model();
    edit(checkpoint);
    fs::remove_all(in());
    checkpoint.Write(in());
    const Error error = ErrorOf([&] { PackDeltas(false).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(packed()));
    return error.place().tensor;
  };
  EXPECT_EQ(refused([](TinyCheckpoint& model) { model.Add(kFirst, "new", Dtype::kF32, {2}); }),
            "new");
  EXPECT_EQ(refused([](TinyCheckpoint& model) { model.tensors.erase(model.tensors.begin() + 1); }),
            "still");
  EXPECT_EQ(refused([](TinyCheckpoint& model) { model.Find("w").shape = {900, 1700}; }), "w");
  EXPECT_EQ(refused([](TinyCheckpoint& model) { model.Find("w").dtype = Dtype::kF16; }), "w");
}

TEST_F(PullWeightsTest, OptionsThatDoNotFit) {
  const auto code = [&](const PackOptions& options) {
    const Conversion conversion(in(), packed(), PackConversion(options));
    return ErrorOf([&] { conversion.Run(); }).code();
  };
  const PackForm form = PackForm::kPullWeights;
  EXPECT_EQ(code({.base = base_, .form = form}), ErrorCode::kUsage);
  EXPECT_EQ(code({.form = form, .weight_version = 1}), ErrorCode::kUsage);
  EXPECT_EQ(code({.base = base_, .form = form, .weight_version = 0}), ErrorCode::kUsage);
  EXPECT_EQ(code({.base = base_, .weight_version = 1}), ErrorCode::kUsage);
  EXPECT_EQ(code({.base = base_, .idempotent = true}), ErrorCode::kUsage);
  EXPECT_FALSE(fs::exists(packed()));
}

TEST_F(PullWeightsTest, AnotherInputIsNotTheFinishedOne) {
  PackDeltas(false).Run();
  TinyCheckpoint other = Model();
  Change(other);
  other.Find("ids").bytes[0] ^= 1;
  fs::remove_all(in());
  other.Write(in());
  EXPECT_EQ(ErrorOf([&] { PackDeltas(false).Run(); }).code(), ErrorCode::kUsage);
}

TEST_F(PullWeightsTest, NeedTheirBaseAndAreNone) {
  PackDeltas(false).Run();
  EXPECT_EQ(ErrorOf([&] { UnpackOn("").Run(); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(ErrorOf([&] { OpenModel(packed()); }).code(), ErrorCode::kUsage);
  const Error chain = ErrorOf([&] { UnpackOn(packed()).Run(); });
  EXPECT_EQ(chain.code(), ErrorCode::kBadInput);
  EXPECT_THAT(chain.message(), HasSubstr("unpack it first"));
}

TEST_F(PullWeightsTest, AreFoundByMetadataBehindTheTensors) {
  PackDeltas(false).Run();
  const json index = json::parse(ReadFile(packed() / testing::kIndexFile));
  WriteFile(packed() / testing::kIndexFile,
            "{\"weight_map\": " + index["weight_map"].dump() + std::string(5000, ' ') +
                ", \"metadata\": " + index["metadata"].dump() + "}");
  UnpackOn(base_).Run();
  EXPECT_EQ(ReadFile(out() / kFirst), ReadFile(in() / kFirst));
}

TEST_F(PullWeightsTest, FilesThatTheIndexDoesNotDescribe) {
  PackDeltas(false).Run();
  const std::string index = ReadFile(packed() / testing::kIndexFile);
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string text = index;
    text.replace(text.find(from), from.size(), to);
    WriteFile(packed() / testing::kIndexFile, text);
    const Error error = ErrorOf([&] { UnpackOn(base_).Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    EXPECT_FALSE(fs::exists(out()));
  };
  refused("\"w\"", "\"v\"");
  refused("zstd", "lz4");
  refused("\"xor\"", "\"add\"");
  refused("xxh3-128", "md5");
  refused("000007", "000006");
  refused("000007", "seven");
  refused(kFirstDeltas, "../model.safetensors");
}

}  // namespace
}  // namespace dsv3::convert
