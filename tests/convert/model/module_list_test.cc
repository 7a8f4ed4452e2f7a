#include "convert/model/module_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;

bool Names(const std::string& entry, const std::string& module) {
  return ModuleList({entry}).Names(module);
}

TEST(ModuleListTest, NamesWholeNamesModulesAroundAndEndings) {
  const std::string module = "model.layers.3.mlp.gate";
  EXPECT_TRUE(Names("model.layers.3.mlp.gate", module));
  EXPECT_TRUE(Names("model.layers.3", module));
  EXPECT_TRUE(Names("mlp.gate", module));
  EXPECT_TRUE(Names("gate", module));
  EXPECT_TRUE(Names("layers.3.mlp", module));
}

TEST(ModuleListTest, NamesNoPartsOfParts) {
  EXPECT_FALSE(Names("mlp.gate", "model.layers.3.mlp.gate_proj"));
  EXPECT_FALSE(Names("model.layers.1", "model.layers.10.mlp"));
  EXPECT_FALSE(Names("ayers.1", "model.layers.1.mlp"));
  EXPECT_FALSE(Names("model.layers.1.mlp.up", "model.layers.1.mlp"));
  EXPECT_FALSE(Names("", "model"));
}

TEST(ModuleListTest, TellsWhichEntriesNameAModule) {
  const ModuleList list({"a.b", "x", "b", "a.b"});
  EXPECT_THAT(list.entries(), ElementsAre("a.b", "x", "b"));
  std::vector<std::size_t> found;
  list.ForEachNaming("a.b.c", [&](std::size_t i) { found.push_back(i); });
  EXPECT_THAT(found, ElementsAre(0, 2));
}

TEST(ModuleListTest, ModuleIsTheNameWithoutWeight) {
  EXPECT_EQ(ModuleOf("a.b.weight"), "a.b");
  EXPECT_EQ(ModuleOf("experts.gate_up_proj"), "experts.gate_up_proj");
}

}  // namespace
}  // namespace dsv3::convert
