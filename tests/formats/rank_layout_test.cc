#include "formats/rank_layout.h"

#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kA = "0123456789abcdef0123456789abcdef";
constexpr const char* kB = "ffffffffffffffffffffffffffffffff";

// Uses every member there is: TP 2, EP 4, DP 2, PP 2.
RankLayout WholeLayout() {
  RankLayout layout;
  layout.format = "hf-rank";
  layout.grouping = "component";
  layout.job = kA;
  layout.sizes = {8, 2, 2, 2, 2, 2, 1, 2, 4, 3};
  layout.on_misaligned = "subblock";
  layout.recut_block = {64, 32};
  layout.bf16_modules = {"model.layers.0.self_attn.o_proj"};
  layout.replicated_modules = {"model.layers.0.mlp"};
  layout.dropped = {"odd \"name\"\n"};
  layout.expert_map = {{0, 1, 2}, {2, 0, 1}};
  for (std::uint64_t i = 0; i < 8; ++i) {
    const std::uint64_t r = i % 4;
    layout.ranks.push_back({i, i / 4, r % 2, r / 2, r / 2, r % 2, {0, 1}, 100 + i, 10 + i});
  }
  layout.ranks[7].files = {1};
  layout.files = {{"a.safetensors", 104, std::string(64, '1'), kA}, {"b.safetensors", 9, "", kB}};
  layout.tensors = {
      {"down", Dtype::kBF16, {3, 4}, kB, {0, 1}, "dequantize", {{"down", 0, 3, 4, 8}}},
      {"gate_up",
       Dtype::kF8E4M3,
       {5, 4},
       kA,
       {0},
       "slice",
       {{"gate", 0, 2, 0, 4}, {"up", 7, 9, 0, 4}}},
      {"gate_up", Dtype::kF8E4M3, {5, 4}, kB, {1}, "slice", {{"gate", 2, 4, 0, 4}}},
      {"scale", Dtype::kF32, {2, 1}, kA, {1}, "recut-scales", {{"scale", 0, 2, 3, 4}}},
  };
  layout.source_config = "{\n \"model_type\": \"deepseek_v3\"\t}\n";
  layout.source_index = "{\"weight_map\": {}}";
  layout.source_files = {{"model-1.safetensors", 1000, "{\"down\": 1}  "},
                         {"model-2.safetensors", 2000, "{}"}};
  layout.side_files = {{"LICENSE", 3, std::string(64, '2'), ""}, {"code/a.py", 0, "", kB}};
  return layout;
}

std::string Replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

void ExpectMalformed(const std::string& text, const std::string& problem) {
  testing::ExpectBadInput([&] { ParseRankLayout(text, "l.json"); }, "l.json", problem);
}

// What ParseRankLayout says of WholeLayout with one change.
template <typename Change>
void ExpectRefused(const Change& change, const std::string& problem) {
  RankLayout layout = WholeLayout();
  change(layout);
  ExpectMalformed(SerializeRankLayout(layout), problem);
}

TEST(RankLayoutTest, GivesTheSameBytesAfterReading) {
  const std::string text = SerializeRankLayout(WholeLayout());
  EXPECT_EQ(SerializeRankLayout(ParseRankLayout(text, "l.json")), text);
}

TEST(RankLayoutTest, ReadsEveryMember) {
  const RankLayout whole = WholeLayout();
  const RankLayout layout = ParseRankLayout(SerializeRankLayout(whole), "l.json");
  EXPECT_EQ(layout.format, "hf-rank");
  EXPECT_EQ(layout.grouping, "component");
  EXPECT_EQ(layout.job, kA);
  EXPECT_EQ(layout.sizes, whole.sizes);
  EXPECT_EQ(layout.on_misaligned, "subblock");
  EXPECT_EQ(layout.recut_block, whole.recut_block);
  EXPECT_EQ(layout.bf16_modules, whole.bf16_modules);
  EXPECT_EQ(layout.replicated_modules, whole.replicated_modules);
  EXPECT_EQ(layout.dropped, whole.dropped);
  EXPECT_EQ(layout.expert_map, whole.expert_map);
  ASSERT_EQ(layout.ranks.size(), 8U);
  EXPECT_EQ(layout.ranks[7].stage, 1U);
  EXPECT_EQ(layout.ranks[6].dp_rank, 1U);
  EXPECT_EQ(layout.ranks[6].ep_rank, 1U);
  EXPECT_EQ(layout.ranks[5].tp_rank, 1U);
  EXPECT_EQ(layout.ranks[5].moe_tp_rank, 1U);
  EXPECT_EQ(layout.ranks[5].bytes, 105U);
  EXPECT_EQ(layout.ranks[5].parameters, 15U);
  EXPECT_THAT(layout.ranks[6].files, ElementsAre(0, 1));
  EXPECT_THAT(layout.ranks[7].files, ElementsAre(1));
  EXPECT_EQ(layout.files[0].sha256, std::string(64, '1'));
  EXPECT_EQ(layout.files[1].header_xxh3, kB);
  ASSERT_EQ(layout.tensors.size(), 4U);
  EXPECT_THAT(layout.tensors[0].files, ElementsAre(0, 1));
  EXPECT_EQ(layout.tensors[0].rule, "dequantize");
  EXPECT_EQ(layout.tensors[0].parts[0].name, "down");
  EXPECT_EQ(layout.tensors[1].parts[1].name, "up");
  EXPECT_EQ(layout.tensors[1].parts[1].row_begin, 7U);
  EXPECT_EQ(layout.tensors[1].parts[1].row_end, 9U);
  EXPECT_EQ(layout.tensors[2].xxh3, kB);
  EXPECT_EQ(layout.tensors[3].parts[0].col_begin, 3U);
  EXPECT_EQ(layout.tensors[3].parts[0].col_end, 4U);
  EXPECT_EQ(layout.source_config, whole.source_config);
  EXPECT_EQ(layout.source_index, whole.source_index);
  EXPECT_EQ(layout.source_files[0].name, "model-1.safetensors");
  EXPECT_EQ(layout.source_files[0].header, "{\"down\": 1}  ");
  EXPECT_EQ(layout.side_files[0].sha256, std::string(64, '2'));
  EXPECT_EQ(layout.side_files[1].xxh3, kB);
}

TEST(RankLayoutTest, ReadsOneWithoutWhatMayBeAbsent) {
  RankLayout layout = WholeLayout();
  layout.recut_block = {0, 0};
  layout.expert_map.clear();
  layout.dropped.clear();
  layout.source_index.reset();
  layout.side_files.clear();
  const std::string text = SerializeRankLayout(layout);
  EXPECT_THAT(text, Not(HasSubstr("recut_block")));
  const RankLayout read = ParseRankLayout(text, "l.json");
  EXPECT_EQ(SerializeRankLayout(read), text);
  EXPECT_EQ(read.source_index, std::nullopt);
}

TEST(RankLayoutTest, PutsAFileATensorAndARankOnALineEach) {
  const std::string text = SerializeRankLayout(WholeLayout());
  EXPECT_THAT(text,
              HasSubstr("\n\"world_size\": 8,\n\"tp\": 2,\n\"ep\": 2,\n\"dp\": 2,\n\"pp\": 2,"));
  EXPECT_THAT(text, HasSubstr("\n{\"rank\":7,\"stage\":1,\"tp_rank\":1,\"dp_rank\":1,\"ep_rank\":1,"
                              "\"moe_tp_rank\":1,\"bytes\":107,\"parameters\":17,\"files\":["
                              "\"b.safetensors\"]}\n"));
  EXPECT_THAT(text,
              HasSubstr("\n{\"name\":\"down\",\"dtype\":\"BF16\",\"rule\":\"dequantize\","
                        "\"slices\":[{\"files\":[0,1],\"shape\":[3,4],\"parts\":[{\"rows\":[0,"
                        "3],\"cols\":[4,8]}],\"xxh3_128\":\"" +
                        std::string(kB) + "\"}]},\n"));
  EXPECT_THAT(text, HasSubstr("\n[2,0,1]\n]"));
}

TEST(RankLayoutTest, SkipsMembersThatItDoesNotKnow) {
  const std::string text = SerializeRankLayout(WholeLayout());
  const std::string more = Replaced(Replaced(text, "\"version\": 1", "\"version\": 1,\"n\": [{}]"),
                                    "\"tp_rank\":", "\"news\":null,\"tp_rank\":");
  EXPECT_EQ(SerializeRankLayout(ParseRankLayout(more, "l.json")), text);
}

TEST(RankLayoutTest, RejectsWhatIsNoLayout) {
  const std::string text = SerializeRankLayout(WholeLayout());
  ExpectMalformed("", "");
  ExpectMalformed("[]", "");
  ExpectMalformed("{}", "has no member \"world_size\"");
  ExpectMalformed(Replaced(text, "dsv3-rank-layout", "other"), "\"format\"");
  ExpectMalformed(Replaced(text, "\"version\": 1", "\"version\": 2"), "\"version\" is not 1");
  ExpectMalformed(Replaced(text, "\"tp\": 2", "\"tp\": 2, \"tp\": 2"), "two members \"tp\"");
  ExpectMalformed(Replaced(text, "\"tensors\": [", "\"tensor\": ["), "no member \"tensors\"");
  ExpectMalformed(Replaced(text, "\"tp\": 2", "\"tp\": \"2\""), "");
  ExpectMalformed(text + "x", "");
}

TEST(RankLayoutTest, RejectsEveryProperPrefix) {
  const std::string text = SerializeRankLayout(WholeLayout());
  for (std::size_t size = 0; size + 1 < text.size(); ++size) {
    ExpectMalformed(text.substr(0, size), "");
  }
}

TEST(RankLayoutTest, RejectsUnknownKindsByName) {
  ExpectRefused([](RankLayout& l) { l.format = "x"; }, "\"layout\" is 'x'");
  ExpectRefused([](RankLayout& l) { l.grouping = "x"; }, "\"grouping\" is 'x'");
  ExpectRefused([](RankLayout& l) { l.on_misaligned = "x"; }, "\"on_misaligned\" is 'x'");
  ExpectRefused([](RankLayout& l) { l.tensors[0].rule = "x"; }, "\"rule\" is 'x'");
  ExpectMalformed(Replaced(SerializeRankLayout(WholeLayout()), "\"BF16\"", "\"BF17\""), "'BF17'");
}

TEST(RankLayoutTest, RejectsSizesThatDoNotMultiply) {
  ExpectRefused([](RankLayout& l) { l.sizes.world_size = 9; },
                "\"world_size\" is 9, but tp 2 times dp 2 times pp 2 are 8");
  ExpectRefused([](RankLayout& l) { l.sizes.ep = 4; }, "a stage has 4 ranks");
  ExpectRefused([](RankLayout& l) { l.sizes.embed_tp = 0; }, "0 is not a number of ranks");
  ExpectRefused([](RankLayout& l) { l.sizes.tp = std::uint64_t{1} << 63; },
                "9223372036854775808 is not a number of ranks");
  ExpectRefused([](RankLayout& l) { l.recut_block.second = 0; }, "\"recut_block\" is not a block");
}

TEST(RankLayoutTest, RejectsRanksThatAreNotThoseOfTheSizes) {
  ExpectRefused([](RankLayout& l) { l.ranks.pop_back(); }, "lists 7 ranks");
  ExpectRefused([](RankLayout& l) { l.ranks[3] = l.ranks[4]; }, "rank 3 is not there");
  ExpectRefused([](RankLayout& l) { l.ranks[3] = l.ranks[2]; }, "rank 3 is not there");
  ExpectRefused([](RankLayout& l) { l.ranks[3].tp_rank = 0; }, "the places of rank 3");
  ExpectRefused([](RankLayout& l) { l.ranks[3].dp_rank = 0; }, "the places of rank 3");
  ExpectRefused([](RankLayout& l) { l.ranks[3].ep_rank = 0; }, "the places of rank 3");
  ExpectRefused([](RankLayout& l) { l.ranks[3].moe_tp_rank = 0; }, "the places of rank 3");
  ExpectRefused([](RankLayout& l) { l.ranks[3].stage = 1; }, "the places of rank 3");
  ExpectRefused(
      [](RankLayout& l) {
        l.ranks[3].files = {1, 1};
      },
      "rank 3 loads 'b.safetensors' twice");
  ExpectMalformed(Replaced(SerializeRankLayout(WholeLayout()), "\"files\":[\"b.safetensors\"]",
                           "\"files\":[\"c.safetensors\"]"),
                  "rank 7 loads 'c.safetensors', which is not among the files");
}

TEST(RankLayoutTest, TakesRanksInAnyOrder) {
  const std::string text = SerializeRankLayout(WholeLayout());
  RankLayout layout = WholeLayout();
  std::swap(layout.ranks[0], layout.ranks[7]);
  EXPECT_EQ(SerializeRankLayout(ParseRankLayout(SerializeRankLayout(layout), "l.json")), text);
}

TEST(RankLayoutTest, RejectsFilesOutsideTheDirectory) {
  for (const char* name : {"/a", "../a", "", "a/../b", "./a"}) {
    ExpectRefused([&](RankLayout& l) { l.files[0].name = name; }, "it lists file");
    ExpectRefused([&](RankLayout& l) { l.source_files[0].name = name; }, "it lists file");
    ExpectRefused([&](RankLayout& l) { l.side_files[0].name = name; }, "it lists file");
  }
  ExpectRefused([](RankLayout& l) { l.files[0].name = "a/b"; },
                "'a/b' is not in the directory itself");
}

TEST(RankLayoutTest, RejectsFilesThatAreListedTwice) {
  ExpectRefused([](RankLayout& l) { l.files[1].name = "a.safetensors"; }, "is listed twice");
  ExpectRefused([](RankLayout& l) { l.source_files[1].name = "model-1.safetensors"; },
                "'model-1.safetensors' is listed twice");
  ExpectRefused([](RankLayout& l) { std::swap(l.source_files[0], l.source_files[1]); },
                "not in the order of the names");
  ExpectRefused([](RankLayout& l) { l.side_files[1].name = "LICENSE"; },
                "'LICENSE' is listed twice");
  ExpectRefused([](RankLayout& l) { std::swap(l.files[0], l.files[1]); },
                "not in the order of the names");
  ExpectRefused([](RankLayout& l) { l.source_files.clear(); }, "\"source\" lists no files");
}

TEST(RankLayoutTest, RejectsDigestsThatAreNoHex) {
  ExpectRefused([](RankLayout& l) { l.job = "xyz"; }, "'xyz'");
  ExpectRefused([](RankLayout& l) { l.files[0].sha256 = kA; }, "64 lowercase hex digits");
  ExpectRefused([](RankLayout& l) { l.files[0].header_xxh3 = "0"; }, "32 lowercase hex digits");
  ExpectRefused([](RankLayout& l) { l.tensors[0].xxh3[0] = 'A'; }, "32 lowercase hex digits");
  ExpectRefused([](RankLayout& l) { l.side_files[0].sha256 = "0"; }, "64 lowercase hex digits");
  ExpectRefused([](RankLayout& l) { l.side_files[1].xxh3 = "0"; }, "32 lowercase hex digits");
  ExpectRefused([](RankLayout& l) { l.side_files[1].xxh3.clear(); }, "'code/a.py' has no digest");
}

TEST(RankLayoutTest, RejectsTensorsThatContradictThemselves) {
  ExpectRefused(
      [](RankLayout& l) {
        l.tensors[0].files = {0, 2};
      },
      "'down' is said to be in file 2, but there are 2 files");
  ExpectRefused([](RankLayout& l) { l.tensors[0].files = {}; }, "a slice is in no file");
  ExpectRefused([](RankLayout& l) { l.tensors[0].files = {1, 0}; }, "do not ascend");
  ExpectRefused([](RankLayout& l) { l.tensors[2].files = {0}; },
                "'gate_up' is listed twice for 'a.safetensors'");
  ExpectRefused([](RankLayout& l) { std::swap(l.tensors[0], l.tensors[3]); },
                "not in the order of the names");
  ExpectRefused(
      [](RankLayout& l) {
        l.tensors[0].shape = {~std::uint64_t{0}, 2};
      },
      "has no byte size");
  ExpectRefused([](RankLayout& l) { l.tensors[0].parts[0].row_end = 0; }, "is empty");
  ExpectRefused([](RankLayout& l) { l.tensors[0].parts[0].col_end = 4; }, "is empty");
  ExpectRefused([](RankLayout& l) { l.tensors[0].parts[0].row_end = 4; },
                "the parts of tensor 'down' are more than its shape [3, 4]");
  ExpectRefused([](RankLayout& l) { l.tensors[0].parts[0].row_end = ~std::uint64_t{0}; },
                "are more than its shape");
  // As many elements as no 64-bit number counts.
  ExpectRefused([](RankLayout& l) { l.tensors[0].parts[0].row_end = std::uint64_t{1} << 62; },
                "are more than its shape");
  ExpectRefused([](RankLayout& l) { l.tensors[1].parts[1].row_end = 11; },
                "are more than its shape");
}

TEST(RankLayoutTest, RejectsPairsThatAreNone) {
  const std::string text = SerializeRankLayout(WholeLayout());
  ExpectMalformed(Replaced(text, "\"rows\":[0,3]", "\"rows\":[0]"), "does not hold two numbers");
  ExpectMalformed(Replaced(text, "\"rows\":[0,3]", "\"rows\":[0,3,4]"), "more than two numbers");
}

TEST(RankLayoutTest, RejectsALayerOfAnotherLength) {
  ExpectRefused([](RankLayout& l) { l.expert_map[1].pop_back(); }, "differ in length");
  ExpectMalformed(Replaced(SerializeRankLayout(WholeLayout()), "[2,0,1]", "[2,0,4294967296]"),
                  "4294967296 is too large");
}

TEST(RankLayoutTest, BoundsWhatRepeatedNamesTake) {
  std::string slices;
  for (int i = 0; i < 1000; ++i) {
    slices += R"({"files":[0],"shape":[1],"parts":[{"rows":[0,1],"cols":[0,1]}],"xxh3_128":")" +
              std::string(kA) + "\"},";
  }
  slices.pop_back();
  ExpectMalformed(R"({"tensors":[{"name":")" + std::string(100'000, 'n') +
                      R"(","dtype":"U8","slices":[)" + slices + "]}]}",
                  "names repeat beyond measure");
}

TEST(RankLayoutTest, KeepsNamesOfAnyCharacters) {
  RankLayout layout = WholeLayout();
  layout.tensors[0].name = "\xC3\xBC \"\\\n";
  layout.tensors[0].parts[0].name = "\xC3\xBC \"\\\n";
  std::swap(layout.tensors[0], layout.tensors[3]);
  std::swap(layout.tensors[0], layout.tensors[2]);
  std::swap(layout.tensors[0], layout.tensors[1]);
  layout.source_files[0].header = std::string("\x7F\x01\t\0 ", 5);
  const std::string text = SerializeRankLayout(layout);
  const RankLayout read = ParseRankLayout(text, "l.json");
  EXPECT_EQ(read.tensors[3].name, layout.tensors[3].name);
  EXPECT_EQ(read.source_files[0].header, layout.source_files[0].header);
  EXPECT_EQ(SerializeRankLayout(read), text);
}

}  // namespace
}  // namespace dsv3::formats
