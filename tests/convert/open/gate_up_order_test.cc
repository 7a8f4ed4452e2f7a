#include "convert/open/gate_up_order.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class GateUpOrderTest : public ::testing::Test {
 protected:
  GateUpOrder Find(const std::string& config = "{}") const {
    return FindGateUpOrder(dir_ / "run" / "weights", config);
  }
  void Put(const std::string& name, const std::string& text) const {
    testing::WriteFile(dir_ / "run" / name, text);
  }

  testing::TempDir dir_;
};

TEST_F(GateUpOrderTest, IsNotKnownWhereNothingSaysIt) {
  Put("weights/more.yaml", "model:\n  model_config:\n    hidden_size: 8\n");
  EXPECT_FALSE(Find().stack);
  EXPECT_THAT(Find().said, IsEmpty());
}

TEST_F(GateUpOrderTest, IsSaidByTheConfig) {
  EXPECT_EQ(Find(R"({"use_interleaved_weight_layout_mlp": true})").stack,
            Stack::kMindformersMcoreV2);
  EXPECT_EQ(Find(R"({"use_interleaved_weight_layout_mlp": false})").stack,
            Stack::kMindformersMcoreV2Contiguous);
  EXPECT_FALSE(Find(R"({"use_interleaved_weight_layout_mlp": "maybe"})").stack);
}

TEST_F(GateUpOrderTest, IsSaidByYamlBesideTheWeightsOrAroundThem) {
  Put("weights/x", "");
  Put("train.yaml",
      "model:\n  model_config:\n    use_interleaved_weight_layout_mlp: False  # as exported\r\n");
  EXPECT_EQ(Find().stack, Stack::kMindformersMcoreV2Contiguous);
  EXPECT_THAT(Find().said, ElementsAre("../train.yaml"));
  Put("weights/same.yml", "use_interleaved_weight_layout_mlp: false");
  EXPECT_EQ(Find().stack, Stack::kMindformersMcoreV2Contiguous);
}

TEST_F(GateUpOrderTest, IsNotTakenFromCommentsOtherWordsAndOtherValues) {
  Put("weights/a.yaml",
      "# use_interleaved_weight_layout_mlp: True\n"
      "not_use_interleaved_weight_layout_mlp: True\n"
      "use_interleaved_weight_layout_mlp_too: True\n"
      "use_interleaved_weight_layout_mlp: ${layout}\n");
  Put("weights/a.txt", "use_interleaved_weight_layout_mlp: True\n");
  EXPECT_FALSE(Find().stack);
}

TEST_F(GateUpOrderTest, IsNotKnownWhereFilesContradictEachOther) {
  Put("weights/a.yaml", "use_interleaved_weight_layout_mlp: True\n");
  const GateUpOrder order = Find(R"({"use_interleaved_weight_layout_mlp": false})");
  EXPECT_FALSE(order.stack);
  EXPECT_THAT(order.said, ElementsAre("config.json", "a.yaml"));
}

}  // namespace
}  // namespace dsv3::convert
