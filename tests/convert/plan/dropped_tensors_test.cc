#include "convert/plan/dropped_tensors.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/plan/dequantize_expression.h"
#include "tests/convert/support/memory_source.h"
#include "tests/convert/support/tiny_checkpoint.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(DroppedTensorsTest, AreThoseOfWhichNothingIsMade) {
  testing::TinyCheckpoint checkpoint;
  checkpoint.Add("s", "w", Dtype::kF8E4M3, {8, 8});
  checkpoint.AddScale("s", "w_scale", Dtype::kF32, {2, 1});
  for (const std::string layer : {"layers.1.", "layers.2."}) {
    checkpoint.Add("s", layer + "input_scale", Dtype::kF32, {1});
    checkpoint.Add("s", layer + "a", Dtype::kF32, {1});
  }
  const testing::MemorySource source(checkpoint);
  const Catalog& catalog = source.catalog();
  const auto at = [&](const char* name) { return catalog.Find(name); };
  Plan plan;
  plan.files.push_back(PlanFile(
      "f",
      {{"w", Dequantize(catalog, testing::MatrixPair(catalog, at("w"), at("w_scale"), {4, 8}))},
       {"other name", Copy(catalog, at("layers.1.a"))}}));
  EXPECT_THAT(DroppedTensors(plan, catalog),
              ElementsAre(Pair("layers.*.a", 1U), Pair("layers.*.input_scale", 2U)));
  plan.not_read = {{"optimizer.*", 7}};
  plan.files.push_back(PlanFile("g", {{"a", Copy(catalog, at("layers.2.a"))},
                                      {"b", Copy(catalog, at("layers.1.input_scale"))},
                                      {"c", Copy(catalog, at("layers.2.input_scale"))}}));
  EXPECT_THAT(DroppedTensors(plan, catalog), ElementsAre(Pair("optimizer.*", 7U)));
}

TEST(DroppedTensorsTest, AreNotSecondCopies) {
  // Two rank files with the same tensors; a conversion takes them from the first.
  std::vector<SourceFile> files(2);
  std::vector<CatalogTensor> tensors;
  for (std::uint32_t file = 0; file < 2; ++file) {
    files[file].name = "rank" + std::to_string(file);
    files[file].shares_names = true;
    for (const char* name : {"norm", "bias"}) {
      tensors.push_back({files[file].name + "/" + name, Dtype::kF32, {1}, {file, 0, 4}});
    }
  }
  const Catalog catalog(files, tensors);
  Plan plan;
  plan.files.push_back(PlanFile("f", {{"norm", Copy(catalog, 0)}}));
  EXPECT_THAT(DroppedTensors(plan, catalog), ElementsAre(Pair("bias", 1U)));
  plan.files.push_back(PlanFile("g", {{"bias", Copy(catalog, 3)}}));
  EXPECT_THAT(DroppedTensors(plan, catalog), IsEmpty());
}

}  // namespace
}  // namespace dsv3::convert
