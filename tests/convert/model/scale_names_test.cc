#include "convert/model/scale_names.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/scaled_weights.h"

namespace dsv3::convert {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ScaleNamesTest, NamesTheScaleOfAWeight) {
  EXPECT_EQ(ScaleNameOf("a.weight", ScaleNaming::kScaleInv), "a.weight_scale_inv");
  EXPECT_EQ(ScaleNameOf("a.weight", ScaleNaming::kWeightScale), "a.weight_scale");
  EXPECT_EQ(ScaleNameOf("a.weight", ScaleNaming::kScale), "a.scale");
  // Only a component "weight" has a component "scale" in its place.
  EXPECT_EQ(ScaleNameOf("experts.down_proj", ScaleNaming::kScale), "experts.down_proj_scale");
  EXPECT_EQ(ScaleNameOf("a.my_weight", ScaleNaming::kScale), "a.my_weight_scale");
}

TEST(ScaleNamesTest, ListsEveryNameOnce) {
  EXPECT_THAT(ScaleNamesOf("a.weight"),
              ElementsAre("a.weight_scale_inv", "a.weight_scale", "a.scale"));
  EXPECT_THAT(ScaleNamesOf("experts.down_proj"),
              ElementsAre("experts.down_proj_scale_inv", "experts.down_proj_scale"));
}

TEST(ScaleNamesTest, ReadsBackEveryNameThatItGives) {
  for (const ScaleNaming naming : kScaleNamings) {
    const auto parsed = ParseScaleName(ScaleNameOf("a.b.weight", naming));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->naming, naming);
    EXPECT_EQ(parsed->weight, "a.b.weight");
  }
  for (const char* const other : {"a.weight", "a.my.rescale", "a.scales", "a.weight_scale_2", ""}) {
    EXPECT_FALSE(ParseScaleName(other)) << other;
  }
}

TEST(ScaleNamesTest, FindsTheCodesOfEveryForm) {
  EXPECT_THAT(CodeNamesOf("a.weight_scale_inv"), ElementsAre("a.weight", "a.weight_packed"));
  EXPECT_THAT(CodeNamesOf("a.weight_scale_2"), ElementsAre("a.weight", "a.weight_packed"));
  EXPECT_THAT(CodeNamesOf("a.scale"), ElementsAre("a.weight"));
  EXPECT_THAT(CodeNamesOf("scale"), ElementsAre("weight"));
  EXPECT_THAT(CodeNamesOf("a.weight"), IsEmpty());
}

TEST(ScaleMapTest, FindsPairsByWeightAndByScale) {
  std::vector<ScaledWeight> pairs(2);
  pairs[0].weight = 1;
  pairs[0].scale = 4;
  pairs[1].weight = 3;
  pairs[1].scale = 0;
  const ScaleMap map(pairs, 5);
  EXPECT_EQ(map.OfWeight(1), &pairs[0]);
  EXPECT_EQ(map.OfScale(4), &pairs[0]);
  EXPECT_EQ(map.OfWeight(3), &pairs[1]);
  EXPECT_EQ(map.OfScale(0), &pairs[1]);
  EXPECT_EQ(map.OfWeight(4), nullptr);
  EXPECT_EQ(map.OfScale(1), nullptr);
  EXPECT_EQ(map.OfWeight(2), nullptr);
  EXPECT_EQ(map.OfScale(2), nullptr);
}

}  // namespace
}  // namespace dsv3::convert
