#include "cli/table.h"

#include <string>

#include <gtest/gtest.h>

namespace dsv3::cli {
namespace {

Table Names() {
  Table table("llr");
  table.Add({"tensor", "dtype", "bytes"});
  table.Add({"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "BF16", "12"});
  table.Add({"model.norm.weight", "F8_E4M3", "3"});
  return table;
}

TEST(TableTest, CutsNamesInTheMiddleWhereTheyDoNotFit) {
  EXPECT_EQ(Names().Text("", 48),
            "tensor                            dtype    bytes\n"
            "…0.self_at…_proj_with_mqa.weight  BF16        12\n"
            "model.norm.weight                 F8_E4M3      3\n");
}

TEST(TableTest, KeepsNumbersOfLayersInNames) {
  Table table("lr");
  table.Add({"tensor", "bytes"});
  table.Add({"model.layers.60.mlp.experts.255.down_proj.weight", "12"});
  table.Add({"language_model.model.layers.7.input_layernorm.weight", "3"});
  EXPECT_EQ(table.Text("", 43),
            "tensor                                bytes\n"
            "…60.mlp.experts.255.down_proj.weight     12\n"
            "…7.input_layernorm.weight                 3\n");
  EXPECT_EQ(table.Text("", 20),
            "tensor                    bytes\n"
            "…60.mlp…down_proj.weight     12\n"
            "…7.inpu…layernorm.weight      3\n");
}

TEST(TableTest, CutsTheNextColumnWhereOneIsNotEnough) {
  Table table("llr");
  table.Add({"model.layers.60.mlp.experts.255.down_proj.weight",
             "model.layers.60.mlp.experts.255.down_proj.weight_scale_inv", "12"});
  EXPECT_EQ(table.Text("", 70),
            "…60.mlp.experts.255.down_proj.weight      …60.mlp…weight_scale_inv  12\n");
}

TEST(TableTest, WrapsTheLastColumnAtSpaces) {
  Table table("ll");
  table.Add({"model", "one, two, three, four, five"});
  table.Add({"files", "2"});
  EXPECT_EQ(table.Wrapped("  ", 27),
            "  model  one, two, three,\n         four, five\n  files  2\n");
  EXPECT_EQ(table.Wrapped("  ", 36), table.Text("  "));
  EXPECT_EQ(table.Wrapped("  "), table.Text("  "));
  // A word stays whole, and a terminal that is too narrow is left.
  Table word("rl");
  word.Add({"sha256", "0123456789012345678901234567890123456789 and more"});
  EXPECT_EQ(word.Wrapped("", 10),
            "sha256  0123456789012345678901234567890123456789\n        and more\n");
  Table accents("ll");
  accents.Add({"blocks", "128×128 äöüäöüäöü"});
  EXPECT_EQ(accents.Wrapped("", 25), "blocks  128×128 äöüäöüäöü\n");
}

TEST(TableTest, SaysWhetherItFits) {
  EXPECT_TRUE(Names().Fits("", 48, 32));
  EXPECT_TRUE(Names().Fits("", 47, 31));
  EXPECT_FALSE(Names().Fits("", 47, 32));
  EXPECT_FALSE(Names().Fits(" ", 48, 32));
  EXPECT_TRUE(Names().Fits("", 0, 100));
  EXPECT_TRUE(Names().Fits("", 80, 100));
}

TEST(TableTest, IsAsWideAsItIsWhereThereIsNoTerminal) {
  const std::string text = Names().Text("");
  EXPECT_NE(text.find("model.layers.0.self_attn.kv_a_proj_with_mqa.weight  BF16"),
            std::string::npos);
  EXPECT_EQ(Names().Text("", 200), text);
}

}  // namespace
}  // namespace dsv3::cli
