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
            "model.laye…_proj_with_mqa.weight  BF16        12\n"
            "model.norm.weight                 F8_E4M3      3\n");
}

TEST(TableTest, IsAsWideAsItIsWhereThereIsNoTerminal) {
  const std::string text = Names().Text("");
  EXPECT_NE(text.find("model.layers.0.self_attn.kv_a_proj_with_mqa.weight  BF16"),
            std::string::npos);
  EXPECT_EQ(Names().Text("", 200), text);
}

}  // namespace
}  // namespace dsv3::cli
