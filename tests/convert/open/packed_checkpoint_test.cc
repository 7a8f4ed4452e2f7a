// Packed checkpoints as the input of other commands.

#include <cstddef>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/base_tensors.h"
#include "convert/open/open_model.h"
#include "convert/open/packed_model.h"
#include "convert/recipes/pack.h"
#include "convert/verify/compare.h"
#include "tests/convert/recipes/pack_test.h"

namespace dsv3::convert {
namespace {

using ::testing::Contains;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::ReadTree;
using testing::SmallFp8Checkpoint;

class PackedCheckpointTest : public testing::PackTest {
 protected:
  void SetUp() override { SmallFp8Checkpoint().Write(in()); }
};

TEST_F(PackedCheckpointTest, IsTheCheckpointThatWasPacked) {
  Pack();
  const OpenedModel original = OpenModel(in());
  const OpenedModel model = OpenModel(packed());
  EXPECT_EQ(model.side_files, original.side_files);
  EXPECT_EQ(model.left_behind.size(), original.left_behind.size());
  EXPECT_EQ(model.config_text, original.config_text);
  EXPECT_EQ(model.needs_index, original.needs_index);
  ASSERT_EQ(model.catalog.files().size(), original.catalog.files().size());
  for (std::size_t i = 0; i < model.catalog.files().size(); ++i) {
    EXPECT_EQ(model.catalog.files()[i].name, original.catalog.files()[i].name);
    EXPECT_EQ(model.catalog.files()[i].bytes, original.catalog.files()[i].bytes);
    EXPECT_EQ(model.catalog.files()[i].header_digest, original.catalog.files()[i].header_digest);
  }
  ASSERT_EQ(model.catalog.tensors().size(), original.catalog.tensors().size());
  EXPECT_TRUE(model.freed.empty());
}

TEST_F(PackedCheckpointTest, ConversionsGiveTheSameFiles) {
  Pack();
  Conversion of_original(in(), dir_ / "bf16");
  of_original.Run();
  Conversion of_packed(packed(), dir_ / "bf16-of-packed");
  of_packed.Run();
  EXPECT_EQ(ReadTree(dir_ / "bf16-of-packed"), ReadTree(dir_ / "bf16"));
}

TEST_F(PackedCheckpointTest, ComparesAsEqual) {
  Pack();
  ProgressSink progress;
  const StopToken stop;
  CompareRequest request;
  request.a = packed();
  request.b = in();
  const CompareReport report = CompareCheckpoints(request, progress, stop);
  EXPECT_EQ(report.counts.identical_bytes, report.tensors.size());
  EXPECT_THAT(report.verification.findings, IsEmpty());
}

TEST_F(PackedCheckpointTest, TakesTheShardsThatTheIndexLists) {
  std::filesystem::copy(in() / testing::kTinyShard1, in() / "consolidated.safetensors");
  std::filesystem::create_directory(in() / "original");
  std::filesystem::copy(in() / testing::kTinyShard2, in() / "original/copy.safetensors");
  Pack();
  const OpenedModel original = OpenModel(in());
  const OpenedModel model = OpenModel(packed());
  EXPECT_EQ(model.catalog.tensors().size(), original.catalog.tensors().size());
  EXPECT_EQ(model.catalog.files().size(), original.catalog.files().size());
  EXPECT_EQ(model.side_files, original.side_files);
  EXPECT_THAT(model.side_files, Not(Contains("packed.json")));
}

TEST_F(PackedCheckpointTest, NeedsNoIndexForASingleFile) {
  testing::TinyCheckpoint single;
  single.config = testing::TinyConfig();
  single.Add("model.safetensors", "w", formats::Dtype::kBF16, {40, 7});
  single.has_index = false;
  std::filesystem::remove_all(in());
  single.Write(in());
  std::filesystem::create_directory(in() / "more");
  std::filesystem::copy(in() / "model.safetensors", in() / "more/other.safetensors");
  Pack();
  const OpenedModel model = OpenModel(packed());
  EXPECT_FALSE(model.needs_index);
  ASSERT_EQ(model.catalog.files().size(), 1U);
  EXPECT_EQ(model.catalog.files()[0].name, "model.safetensors");
}

TEST_F(PackedCheckpointTest, DifferencesNeedTheBase) {
  Conversion(in(), packed(), PackConversion({.base = in()})).Run();
  const Error error = ErrorOf([&] { OpenModel(packed()); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--base DIR"));
  EXPECT_TRUE(ReadsBase(TensorsOf(OpenModel(packed(), {.base = in()}))));
  EXPECT_FALSE(ReadsBase(TensorsOf(OpenModel(in(), {.base = in()}))));
}

TEST_F(PackedCheckpointTest, SourceShardsAreNotDeleted) {
  Pack();
  Conversion conversion(packed(), out());
  conversion.request.run.delete_source_shards = true;
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("packed files are needed whole"));
}

TEST_F(PackedCheckpointTest, DamageIsNamed) {
  Pack();
  const std::string file = std::string(testing::kTinyShard1) + ".packed";
  const std::string content = testing::ReadFile(packed() / file);
  Flip(packed() / file, content.size() / 2);
  Conversion conversion(packed(), out());
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().file, file);
}

}  // namespace
}  // namespace dsv3::convert
