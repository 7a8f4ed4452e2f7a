#include "convert/model/zero_runs.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kLeast = 16;

std::vector<ZeroRun> Find(const std::string& bytes, std::size_t piece) {
  ZeroRuns runs(kLeast);
  // The second half first: pieces come in any order.
  for (const bool second : {true, false}) {
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      if ((at >= bytes.size() / 2) != second) continue;
      ZeroRuns one(kLeast);
      one.Add(at, testing::AsBytes(bytes).subspan(at, std::min(piece, bytes.size() - at)));
      runs.Add(one);
    }
  }
  return runs.Find();
}

TEST(ZeroRunsTest, FindsLongRunsWhereverPiecesEnd) {
  std::string bytes(400, 'x');
  const auto clear = [&](std::size_t begin, std::size_t end) {
    bytes.replace(begin, end - begin, end - begin, '\0');
  };
  clear(0, 20);
  clear(40, 55);  // one byte too short
  clear(100, 116);
  clear(117, 250);
  clear(380, 400);
  for (const std::size_t piece : {1U, 2U, 7U, 16U, 50U, 100U, 399U, 400U}) {
    EXPECT_THAT(Find(bytes, piece), ElementsAre(ZeroRun{0, 20}, ZeroRun{100, 116},
                                                ZeroRun{117, 250}, ZeroRun{380, 400}))
        << piece;
  }
  EXPECT_THAT(Find(std::string(400, '\0'), 33), ElementsAre(ZeroRun{0, 400}));
  EXPECT_THAT(Find(std::string(400, 'x'), 33), IsEmpty());
  EXPECT_THAT(Find(std::string(15, '\0'), 4), IsEmpty());
  EXPECT_THAT(ZeroRuns(kLeast).Find(), IsEmpty());
}

TEST(ZeroRunsTest, FindsWhatALoopOverAllBytesFinds) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    std::string bytes(1 + random() % 500, '\0');
    for (std::size_t i = 0; i < bytes.size(); i += 1 + random() % 40) bytes[i] = 'x';
    std::vector<ZeroRun> expected;
    for (std::size_t i = 0; i < bytes.size();) {
      std::size_t end = i;
      while (end < bytes.size() && bytes[end] == '\0') ++end;
      if (end - i >= kLeast) expected.push_back({i, end});
      i = end + 1;
    }
    EXPECT_EQ(Find(bytes, 1 + random() % 300), expected) << round;
  }
}

TEST(ZeroRunsTest, CountsHalfAPageOfBytesAndAQuarterOfPackedCodes) {
  EXPECT_EQ(LeastZeroRun(Dtype::kBF16), 4096U);
  EXPECT_EQ(LeastZeroRun(Dtype::kF32), 4096U);
  EXPECT_EQ(LeastZeroRun(Dtype::kF8E4M3), 2048U);
  EXPECT_EQ(LeastZeroRun(Dtype::kU8), 2048U);
  EXPECT_EQ(LeastZeroRun(Dtype::kI32), 1024U);
}

// Of a matrix of `shape` in BF16, the kind of the run of elements [begin, end).
ZeroRunKind Kind(const std::string& name, const formats::Shape& shape, std::uint64_t begin,
                 std::uint64_t end) {
  return KindOfZeroRun(name, Dtype::kBF16, shape, {begin * 2, end * 2});
}

TEST(ZeroRunsTest, CallsRunsThatEndWithinRowsHoles) {
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight";
  const formats::Shape shape = {100, 5000};
  EXPECT_EQ(Kind(name, shape, 7 * 5000 + 100, 7 * 5000 + 2300), ZeroRunKind::kHole);
  EXPECT_EQ(Kind(name, shape, 7 * 5000, 9 * 5000 + 2300), ZeroRunKind::kHole);
  EXPECT_EQ(Kind(name, shape, 98 * 5000 + 17, 100 * 5000), ZeroRunKind::kHole);
  EXPECT_EQ(Kind("lm_head.weight", shape, 98 * 5000 + 17, 100 * 5000), ZeroRunKind::kHole);
}

TEST(ZeroRunsTest, CallsWholeRowsWithinAMatrixHoles) {
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight";
  const formats::Shape shape = {100, 5000};
  EXPECT_EQ(Kind(name, shape, 7 * 5000, 9 * 5000), ZeroRunKind::kHole);
  EXPECT_EQ(Kind(name, shape, 0, 20 * 5000), ZeroRunKind::kHole);
  EXPECT_EQ(Kind(name, shape, 40 * 5000, 100 * 5000), ZeroRunKind::kHole) << "most rows";
}

TEST(ZeroRunsTest, TakesRowsThatMayBeReal) {
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight";
  const formats::Shape shape = {100, 5000};
  EXPECT_EQ(Kind(name, shape, 7 * 5000, 8 * 5000), ZeroRunKind::kRows) << "one row";
  EXPECT_EQ(Kind(name, shape, 7 * 5000 - 3, 8 * 5000 + 2), ZeroRunKind::kRows)
      << "zeros beside it by chance";
  EXPECT_EQ(Kind(name, shape, 90 * 5000, 100 * 5000), ZeroRunKind::kRows) << "padding";
  const std::string fused = "model.layers.3.mlp.experts.gate_up_proj";
  EXPECT_EQ(Kind(fused, {4, 100, 5000}, 45 * 5000, 50 * 5000), ZeroRunKind::kRows)
      << "padding of gate";
  EXPECT_EQ(Kind(fused, {4, 100, 5000}, 100 * 5000, 200 * 5000), ZeroRunKind::kRows) << "an expert";
  EXPECT_EQ(Kind(fused, {4, 100, 5000}, 90 * 5000, 190 * 5000), ZeroRunKind::kHole);
}

TEST(ZeroRunsTest, TakesRowsOfTokensThatDoNotExist) {
  const formats::Shape shape = {1000, 3000};
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight",
                           "model.layers.61.shared_head.head.weight", "embed.weight"}) {
    EXPECT_EQ(Kind(name, shape, 938 * 3000, 1000 * 3000), ZeroRunKind::kPadding) << name;
    EXPECT_EQ(Kind(name, shape, 5 * 3000, 6 * 3000), ZeroRunKind::kPadding) << name;
    EXPECT_EQ(Kind(name, shape, 5 * 3000, 67 * 3000), ZeroRunKind::kRows) << name;
    EXPECT_EQ(Kind(name, shape, 5 * 3000, 900 * 3000), ZeroRunKind::kHole) << name;
  }
}

// The slices of a vocabulary that 2 to 128 ranks hold.
TEST(ZeroRunsTest, TakesNoWholeSliceOfAVocabularyForPadding) {
  constexpr std::uint64_t kRows = 6400;
  for (const std::uint64_t ranks : {2U, 4U, 8U, 16U, 32U, 64U, 128U}) {
    const std::uint64_t slice = kRows / ranks * 3000;
    const auto kind = [&](std::uint64_t rank) {
      return Kind("lm_head.weight", {kRows, 3000}, rank * slice, (rank + 1) * slice);
    };
    for (std::uint64_t rank = 0; rank + 1 < ranks; ++rank) {
      EXPECT_EQ(kind(rank), ZeroRunKind::kHole) << rank << " of " << ranks;
    }
    EXPECT_EQ(kind(ranks - 1), ZeroRunKind::kRows) << "the last of " << ranks;
  }
}

// 4,064 rows are padded to 4,096, of which the last of 32 ranks holds 128: 96 of the vocabulary.
TEST(ZeroRunsTest, KnowsTheSlicesOfAPaddedVocabulary) {
  const auto kind = [&](std::uint64_t first, std::uint64_t last) {
    return Kind("lm_head.weight", {4064, 3000}, first * 3000, last * 3000);
  };
  EXPECT_EQ(kind(128, 256), ZeroRunKind::kHole);
  EXPECT_EQ(kind(128, 384), ZeroRunKind::kHole) << "two neighbours";
  EXPECT_EQ(kind(3968, 4064), ZeroRunKind::kRows);
  EXPECT_EQ(kind(127, 256), ZeroRunKind::kRows) << "no slice";
  EXPECT_EQ(kind(128, 240), ZeroRunKind::kRows) << "no slice";
  EXPECT_EQ(kind(3970, 4064), ZeroRunKind::kPadding) << "no slice";
  EXPECT_EQ(kind(128, 129), ZeroRunKind::kPadding) << "one row";
}

TEST(ZeroRunsTest, KnowsVocabulariesByTheirNamesInEveryLayout) {
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "embed.weight",
                           "head.weight", "token_embd.weight", "output.weight",
                           "tok_embeddings.weight", "embedding.word_embeddings.weight",
                           "output_layer.weight", "blk.61.nextn.embed_tokens.weight"}) {
    EXPECT_TRUE(IsVocabulary(name)) << name;
  }
  for (const char* name : {"blk.0.attn_output.weight", "model.norm.weight", "output_norm.weight",
                           "lm_head.weight_scale_inv", "embed_tokens"}) {
    EXPECT_FALSE(IsVocabulary(name)) << name;
  }
}

}  // namespace
}  // namespace dsv3::convert
