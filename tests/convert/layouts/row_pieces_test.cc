#include "convert/layouts/row_pieces.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/model/model_config.h"
#include "tests/convert/model/configs.h"

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;

// The weight's row at each row of the piece.
std::vector<std::uint64_t> Rows(RowPiece piece, const ModelConfig& config, std::uint64_t all) {
  std::vector<std::uint64_t> rows;
  for (const RowRun& run : RowsOf(piece, config, all)) {
    for (std::uint64_t row = run.begin; row < run.end; ++row) rows.push_back(row);
  }
  return rows;
}

std::vector<std::uint64_t> Some(const std::vector<std::uint64_t>& rows, std::size_t begin,
                                std::size_t count) {
  return {rows.begin() + static_cast<std::ptrdiff_t>(begin),
          rows.begin() + static_cast<std::ptrdiff_t>(begin + count)};
}

// 128 heads of 128 rows and 64 with RoPE; a latent of 512; values of 128.
TEST(RowPieces, SortTheRopeRowsOfV3) {
  const ModelConfig config = ParseModelConfig(testing::V3Config().dump(), "config.json");
  const auto query = Rows(RowPiece::kQuerySorted, config, 24576);
  ASSERT_EQ(query.size(), 24576U);
  EXPECT_EQ(query[127], 127U);
  EXPECT_THAT(Some(query, 128, 4), ElementsAre(128, 130, 132, 134));
  EXPECT_EQ(query[159], 190U);
  EXPECT_THAT(Some(query, 160, 4), ElementsAre(129, 131, 133, 135));
  EXPECT_EQ(query[191], 191U);
  EXPECT_THAT(Some(query, 192 + 128, 2), ElementsAre(320, 322));

  const auto key = Rows(RowPiece::kLatentSorted, config, 576);
  ASSERT_EQ(key.size(), 576U);
  EXPECT_EQ(key[511], 511U);
  EXPECT_THAT(Some(key, 512, 4), ElementsAre(512, 514, 516, 518));
  EXPECT_THAT(Some(key, 544, 4), ElementsAre(513, 515, 517, 519));
}

TEST(RowPieces, AreThoseOfAllHeads) {
  ModelConfig config;
  config.num_attention_heads = 2;
  config.qk_nope_head_dim = 3;
  config.qk_rope_head_dim = 4;
  config.v_head_dim = 2;
  config.kv_lora_rank = 5;
  EXPECT_THAT(Rows(RowPiece::kAll, config, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Rows(RowPiece::kQueryNope, config, 14), ElementsAre(0, 1, 2, 7, 8, 9));
  EXPECT_THAT(Rows(RowPiece::kQueryRopeSorted, config, 14),
              ElementsAre(3, 5, 4, 6, 10, 12, 11, 13));
  EXPECT_THAT(Rows(RowPiece::kQuerySorted, config, 14),
              ElementsAre(0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 12, 11, 13));
  EXPECT_THAT(Rows(RowPiece::kLatent, config, 9), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Rows(RowPiece::kKeyRopeSorted, config, 9), ElementsAre(5, 7, 6, 8));
  EXPECT_THAT(Rows(RowPiece::kLatentSorted, config, 9), ElementsAre(0, 1, 2, 3, 4, 5, 7, 6, 8));
  EXPECT_THAT(Rows(RowPiece::kKeys, config, 10), ElementsAre(0, 1, 2, 5, 6, 7));
  EXPECT_THAT(Rows(RowPiece::kValues, config, 10), ElementsAre(3, 4, 8, 9));
}

}  // namespace
}  // namespace dsv3::convert
