#include "convert/inspect/gguf_summary.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/inspect/inspection.h"
#include "tests/formats/support/gguf_maker.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::GgufType;
using testing::GgufMaker;

class GgufSummaryTest : public ::testing::Test {
 protected:
  GgufSummary Summarize(GgufMaker& made) {
    made.Write(dir_ / "m.gguf");
    return Inspect(dir_ / "m.gguf").gguf.value();
  }
  static std::vector<std::string> NamesOf(const GgufSummary& summary) {
    std::vector<std::string> names;
    for (const GgufSummary::Group& group : summary.groups) names.push_back(group.name);
    return names;
  }

  testing::TempDir dir_;
};

TEST_F(GgufSummaryTest, EqualTensorsOfBlocksAreOneGroup) {
  GgufMaker made;
  for (const char* const block : {"10", "0", "1", "2", "11", "7"}) {
    made.Add(std::string("blk.") + block + ".a.1.weight", GgufType::kF16, {2});
  }
  made.Add("blk.3.a.1.weight", GgufType::kF32, {2})
      .Add("blk.4.a.1.weight", GgufType::kF16, {3})
      .Add("blk.5.a.2.weight", GgufType::kF16, {2})
      .Add("blk.06.a.1.weight", GgufType::kF16, {2})
      .Add("a", GgufType::kF16, {2})
      .Add("3", GgufType::kF16, {2});
  const GgufSummary summary = Summarize(made);
  // A number with a zero before it is a word, so the next one is the number.
  EXPECT_THAT(
      NamesOf(summary),
      ::testing::ElementsAre("blk.[0-2,7,10-11].a.1.weight", "blk.3.a.1.weight", "blk.4.a.1.weight",
                             "blk.5.a.2.weight", "blk.06.a.1.weight", "a", "3"));
  EXPECT_EQ(summary.groups[0].tensors, 6U);
  EXPECT_EQ(summary.groups[0].parameters, 12U);
  EXPECT_EQ(summary.groups[0].bytes, 24U);
}

TEST_F(GgufSummaryTest, CountsWhatATokenMeets) {
  GgufMaker made;
  made.Add("token_embd.weight", GgufType::kF32, {10, 4})
      .Add("blk.0.ffn_up_exps.weight", GgufType::kF32, {8, 2, 4})
      .Add("blk.0.ids", GgufType::kI32, {100});
  EXPECT_EQ(Summarize(made).parameters, 40U + 64);
  EXPECT_FALSE(Summarize(made).activated_parameters.has_value());
  made.Key("deepseek2.expert_count", std::uint32_t{8})
      .Key("deepseek2.expert_used_count", std::uint32_t{2});
  EXPECT_EQ(Summarize(made).activated_parameters, 4U + 16);
  // Another number of experts than the keys say: no stack.
  GgufMaker other;
  other.Key("deepseek2.expert_count", std::uint32_t{9})
      .Key("deepseek2.expert_used_count", std::uint32_t{2})
      .Add("blk.0.ffn_up_exps.weight", GgufType::kF32, {8, 2, 4});
  EXPECT_FALSE(Summarize(other).activated_parameters.has_value());
}

TEST_F(GgufSummaryTest, TypesAreSortedByTheirBytes) {
  GgufMaker made("");
  made.Add("a", GgufType::kF32, {3}).Add("b", GgufType::kQ8_0, {64}).Add("c", GgufType::kF32, {1});
  const GgufSummary summary = Summarize(made);
  ASSERT_EQ(summary.types.size(), 2U);
  EXPECT_EQ(summary.types[0].type, GgufType::kQ8_0);
  EXPECT_EQ(summary.types[1].tensors, 2U);
  EXPECT_EQ(summary.types[1].elements, 4U);
  EXPECT_EQ(summary.types[1].bytes, 16U);
  EXPECT_EQ(summary.architecture, "");
}

}  // namespace
}  // namespace dsv3::convert
