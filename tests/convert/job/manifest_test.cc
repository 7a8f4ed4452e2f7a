#include "convert/job/manifest.h"

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/plan/assemble_expression.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/recut_scales_expression.h"
#include "convert/plan/slice_expression.h"
#include "formats/manifest.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::Xxh3Of;

// The manifest of one file with one tensor "t".
class ManifestTextTest : public ::testing::Test {
 protected:
  static testing::TinyCheckpoint Checkpoint() {
    testing::TinyCheckpoint checkpoint;
    checkpoint.Add("s", "a", Dtype::kBF16, {8, 8});
    checkpoint.Add("s", "b", Dtype::kBF16, {8, 8});
    checkpoint.Add("s", "w", Dtype::kF8E4M3, {8, 8});
    checkpoint.AddScale("s", "w_scale", Dtype::kF32, {2, 1});
    return checkpoint;
  }

  ExpressionPtr A() const { return Copy(source_.catalog(), 0); }
  ExpressionPtr Weight() const {
    return Dequantize(source_.catalog(), testing::MatrixPair(source_.catalog(), 2, 3, {4, 8}));
  }
  static ExpressionPtr Slice(ExpressionPtr origin, const Box& box) {
    return std::make_shared<SliceExpression>(Dtype::kBF16, formats::Shape{box.rows(), box.cols()},
                                             std::vector<SlicePart>{{std::move(origin), box}});
  }

  formats::ManifestTensor Tensor(const ExpressionPtr& expression, const std::string& streamed) {
    plan_.recipe = "test";
    plan_.files.clear();
    plan_.files.push_back(PlanFile("f", {{"t", expression}}));
    std::unordered_map<std::string, FileRecord> records;
    records["f"] = {"f", plan_.files[0].bytes, {"", std::string(64, 'a')}, {}};
    records["f"].tensors.push_back({{kOutput, std::string(64, 'b')}, {streamed, ""}, 0, {}});
    const std::string text = ManifestText(
        formats::ManifestJobText(ManifestJobOf(plan_, {source_.catalog(), {}, {}}, {})), plan_,
        {source_.catalog(), {}, {}}, records, sides_);
    const formats::Manifest manifest = formats::ParseManifest(text, "manifest");
    EXPECT_EQ(formats::SerializeManifest(manifest), text);
    return manifest.tensors.at(0);
  }

  const std::string kOutput = Xxh3Of("output");
  testing::MemorySource source_{Checkpoint()};
  Plan plan_;
  std::unordered_map<std::uint32_t, Digests> sides_ = {{3, {Xxh3Of("scale"), ""}}};
};

TEST_F(ManifestTextTest, TellsTheDigestOfWhatWasStreamed) {
  const formats::ManifestTensor copy = Tensor(A(), Xxh3Of("streamed"));
  EXPECT_EQ(copy.rule, "copy");
  ASSERT_EQ(copy.sources.size(), 1U);
  EXPECT_EQ(copy.sources[0].name, "a");
  EXPECT_EQ(copy.sources[0].xxh3, Xxh3Of("streamed"));
  const formats::ManifestTensor dequantized = Tensor(Weight(), Xxh3Of("streamed"));
  ASSERT_EQ(dequantized.sources.size(), 2U);
  EXPECT_EQ(dequantized.sources[0].xxh3, Xxh3Of("streamed"));
  EXPECT_EQ(dequantized.sources[1].name, "w_scale");
  EXPECT_EQ(dequantized.sources[1].xxh3, Xxh3Of("scale"));
}

TEST_F(ManifestTextTest, TellsOfASliceTheDigestThatFollowsFromIt) {
  const formats::ManifestTensor whole = Tensor(Slice(A(), {0, 8, 0, 8}), "");
  EXPECT_EQ(whole.rule, "slice");
  ASSERT_EQ(whole.sources.size(), 1U);
  EXPECT_EQ(whole.sources[0].name, "a");
  EXPECT_EQ(whole.sources[0].xxh3, kOutput);
  EXPECT_EQ(whole.sources[0].sha256, std::string(64, 'b'));

  const formats::ManifestTensor half = Tensor(Slice(A(), {0, 4, 0, 8}), "");
  ASSERT_EQ(half.sources.size(), 1U);
  EXPECT_EQ(half.sources[0].shape, (formats::Shape{8, 8}));
  EXPECT_EQ(half.sources[0].xxh3, "");
  EXPECT_EQ(half.sources[0].sha256, "");

  sides_.clear();
  const formats::ManifestTensor weight = Tensor(Slice(Weight(), {0, 8, 0, 8}), "");
  ASSERT_EQ(weight.sources.size(), 2U);
  EXPECT_EQ(weight.sources[0].xxh3, "");
  EXPECT_EQ(weight.sources[1].xxh3, "");
}

TEST_F(ManifestTextTest, TellsTheDigestsThatTheJobWasToldOf) {
  plan_.source_digests = {{0, Xxh3Of("a")}, {2, Xxh3Of("w")}};
  const ExpressionPtr both = Assemble(source_.catalog(), "both", Dtype::kBF16, {16, 8},
                                      {{{0, 8, 0, 8}, 0, 0, 0}, {{8, 16, 0, 8}, 1, 0, 0}});
  const formats::ManifestTensor assembled = Tensor(both, "");
  EXPECT_EQ(assembled.rule, "assemble");
  ASSERT_EQ(assembled.sources.size(), 2U);
  EXPECT_EQ(assembled.sources[0].xxh3, Xxh3Of("a"));
  EXPECT_EQ(assembled.sources[1].name, "b");
  EXPECT_EQ(assembled.sources[1].xxh3, "");
  const formats::ManifestTensor slice = Tensor(Slice(Weight(), {0, 4, 0, 8}), "");
  ASSERT_EQ(slice.sources.size(), 2U);
  EXPECT_EQ(slice.sources[0].xxh3, Xxh3Of("w"));
  EXPECT_EQ(slice.sources[1].xxh3, Xxh3Of("scale"));
}

TEST_F(ManifestTextTest, NamesTheFileWhereFilesShareNames) {
  SourceFile rank;
  rank.name = "rank-0";
  rank.shares_names = true;
  const Catalog catalog({rank}, {{"rank-0/a", Dtype::kU8, {4}, {0, 0, 4}}});
  EXPECT_EQ(catalog.NameInFile(0), "a");
  EXPECT_EQ(source_.catalog().NameInFile(0), "a");
  Plan plan;
  plan.files.push_back(PlanFile("f", {{"t", Copy(catalog, 0)}}));
  const std::unordered_map<std::string, FileRecord> records = {
      {"f", {"f", plan.files[0].bytes, {}, {{{kOutput, ""}, {kOutput, ""}, 0, {}}}}}};
  const std::string text =
      ManifestText(formats::ManifestJobText(ManifestJobOf(plan, {catalog, {}, {}}, {})), plan,
                   {catalog, {}, {}}, records, {});
  const formats::ManifestSource source =
      formats::ParseManifest(text, "manifest").tensors.at(0).sources.at(0);
  EXPECT_EQ(source.name, "a");
  EXPECT_EQ(source.file, "rank-0");
}

TEST_F(ManifestTextTest, TellsOfRecutScalesWhatWasStreamed) {
  const ExpressionPtr scale = Copy(source_.catalog(), 3);
  const formats::ManifestTensor recut =
      Tensor(RecutScales(scale, 8, 8, {4, 8}, {2, 8}), Xxh3Of("streamed"));
  EXPECT_EQ(recut.rule, "recut-scales");
  ASSERT_EQ(recut.sources.size(), 1U);
  EXPECT_EQ(recut.sources[0].name, "w_scale");
  EXPECT_EQ(recut.sources[0].xxh3, Xxh3Of("streamed"));
}

}  // namespace
}  // namespace dsv3::convert
