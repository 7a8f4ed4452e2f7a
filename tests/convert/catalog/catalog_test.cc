#include "convert/catalog/catalog.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

Catalog Input() {
  return Catalog({{"one", "/in/one", 100, 1, ""}, {"two", "/in/two", 100, 2, ""}},
                 {{"a", Dtype::kBF16, {2}, {0, 8, 4}}, {"b", Dtype::kU8, {3}, {1, 8, 3}}});
}
Catalog Original() {
  return Catalog({{"one", "/original/one", 50, 3, ""}}, {{"b", Dtype::kF32, {1}, {0, 8, 4}},
                                                         {"c", Dtype::kU8, {5}, {0, 12, 5}},
                                                         {"a", Dtype::kU8, {1}, {0, 17, 1}}});
}

TEST(CatalogTest, FindsTensorsOfEachCheckpointApart) {
  Catalog catalog = Input();
  EXPECT_EQ(catalog.FindAppended("a"), Catalog::kNone);
  catalog.Append(Original(), "scales-from");
  ASSERT_EQ(catalog.tensors().size(), 5U);
  EXPECT_EQ(catalog.tensors_end(), 2U);
  EXPECT_EQ(catalog.Find("a"), 0U);
  EXPECT_EQ(catalog.Find("b"), 1U);
  EXPECT_EQ(catalog.Find("c"), Catalog::kNone);
  EXPECT_EQ(catalog.FindAppended("b"), 2U);
  EXPECT_EQ(catalog.FindAppended("c"), 3U);
  EXPECT_EQ(catalog.FindAppended("a"), 4U);
  EXPECT_EQ(catalog.FindAppended("d"), Catalog::kNone);
}

TEST(CatalogTest, FilesTellOfWhichCheckpointTheyAre) {
  Catalog catalog = Input();
  EXPECT_EQ(catalog.files_end(), 2U);
  catalog.Append(Original(), "scales-from");
  EXPECT_EQ(catalog.files_end(), 2U);
  ASSERT_EQ(catalog.files().size(), 3U);
  EXPECT_EQ(catalog.files()[0].checkpoint, "");
  EXPECT_EQ(catalog.files()[0].DisplayName(), "one");
  EXPECT_EQ(catalog.files()[2].checkpoint, "scales-from");
  EXPECT_EQ(catalog.files()[2].DisplayName(), "/original/one");
  EXPECT_EQ(catalog.tensors()[1].extent.file, 1U);
  EXPECT_EQ(catalog.tensors()[3].extent.file, 2U);
  EXPECT_EQ(catalog.tensors()[3].extent.offset, 12U);
}

TEST(CatalogTest, TakesOneMoreCheckpointOnly) {
  Catalog catalog = Input();
  EXPECT_EQ(testing::ErrorOf([&] { catalog.Append(Original(), ""); }).code(), ErrorCode::kInternal);
  catalog.Append(Original(), "scales-from");
  EXPECT_EQ(testing::ErrorOf([&] { catalog.Append(Original(), "again"); }).code(),
            ErrorCode::kInternal);
}

}  // namespace
}  // namespace dsv3::convert
