#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/catalog/progress.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "convert/recipes/reshard_job.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/safetensors.h"
#include "quant/codec.h"
#include "tests/convert/forward/npy_floats.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

// Rank shards run as their ranks do.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ForwardReport;
using convert::ForwardRequest;
using convert::ModuleDifference;
using convert::RankFormat;
using convert::RankGrouping;
using convert::ReshardOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Changes values, rows of `cols`.
using Change = std::function<void(std::vector<float>&, std::size_t cols)>;

void Scale(std::vector<float>& values, std::size_t) {
  for (float& value : values) value *= 1.01F;
}
void SwapHalves(std::vector<float>& values, std::size_t cols) {
  const auto half = static_cast<std::ptrdiff_t>(values.size() / cols / 2 * cols);
  std::swap_ranges(values.begin(), values.begin() + half, values.begin() + half);
}
void NoRightHalf(std::vector<float>& values, std::size_t cols) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % cols >= cols / 2) values[i] = 0;
  }
}
// Of the head, which two ranks share.
constexpr std::size_t kVocabulary = 1000;
constexpr std::size_t kRowsOfRank = 512;
void NoRowsOfRank1(std::vector<float>& values, std::size_t cols) {
  std::fill(values.begin() + static_cast<std::ptrdiff_t>(kRowsOfRank * cols), values.end(), 0.0F);
}
void Zero(std::vector<float>& values, std::size_t) { values.assign(values.size(), 0.0F); }
void SpoilFirst(std::vector<float>& values, std::size_t) {
  values[0] = std::numeric_limits<float>::quiet_NaN();
}

std::string FileOf(std::uint64_t rank) {
  return fmt::format("model-rank-{}-part-0.safetensors", rank);
}

// Changes a BF16 or F32 tensor in a file, and leaves all else as it is.
void Edit(const fs::path& file, const std::string& name, const Change& change) {
  std::string bytes = ReadFile(file);
  const formats::SafetensorsHeader header =
      formats::ParseSafetensorsHeader(AsBytes(bytes), bytes.size(), file.filename().string());
  const auto found =
      std::find_if(header.tensors.begin(), header.tensors.end(),
                   [&](const formats::SafetensorsTensor& tensor) { return tensor.name == name; });
  ASSERT_NE(found, header.tensors.end()) << file << " " << name;
  char* const data = bytes.data() + header.data_offset + found->begin;
  const std::size_t size = found->end - found->begin;
  const bool is_float = found->dtype == formats::Dtype::kF32;
  std::vector<float> values(size / (is_float ? 4 : 2));
  std::vector<std::uint16_t> codes(values.size());
  std::memcpy(is_float ? static_cast<void*>(values.data()) : codes.data(), data, size);
  for (std::size_t i = 0; !is_float && i < codes.size(); ++i) {
    values[i] = quant::DecodeBF16(codes[i]);
  }
  change(values, found->shape.size() == 1 ? 1 : found->shape.back());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = quant::EncodeBF16(values[i]);
  std::memcpy(data, is_float ? static_cast<const void*>(values.data()) : codes.data(), size);
  fs::remove(file);
  WriteFile(file, bytes);
}

// The file of a checkpoint that has a tensor.
fs::path ShardOf(const fs::path& checkpoint, const std::string& name) {
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoint)) {
    if (entry.path().extension() != ".safetensors") continue;
    if (ReadTensors(entry.path()).contains(name)) return entry.path();
  }
  return {};
}

constexpr char kNorm[] = "model.layers.2.post_attention_layernorm.weight";
constexpr char kFirstNorm[] = "model.layers.0.input_layernorm.weight";
constexpr char kHeads[] = "model.layers.1.self_attn.q_b_proj.weight";
constexpr char kOut[] = "model.layers.3.self_attn.o_proj.weight";
constexpr char kRouter[] = "model.layers.2.mlp.gate.weight";
constexpr char kBias[] = "model.layers.2.mlp.gate.e_score_correction_bias";
constexpr char kShared[] = "model.layers.3.mlp.shared_experts.up_proj.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";

// The `tiny-tp` sample with its FP8 weights and as BF16, made once.
class ForwardRanksTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir(MemoryDirectory());
    MakeSample(convert::SamplePreset::kTinyTp, 3, Fp8());
    Conversion(Fp8(), Bf16()).Run();
    ReshardOptions options = Sizes(2, 4);
    options.parallel.dp = 2;
    RunReshard(Bf16(), Ranks(), options);
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static fs::path Fp8() { return *shared_ / "fp8"; }
  static fs::path Bf16() { return *shared_ / "bf16"; }
  // TP 2, DP 2, EP 4, of BF16.
  static fs::path Ranks() { return *shared_ / "ranks"; }

  static ReshardOptions Sizes(std::uint64_t tp, std::uint64_t ep) {
    ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    return options;
  }

  // A copy of the ranks with changed tensors of some of them.
  using Fault = std::tuple<std::uint64_t, std::string, Change>;
  fs::path Faulty(const std::vector<Fault>& faults, const fs::path& ranks = Ranks()) const {
    const fs::path copy = dir_ / "faulty";
    fs::remove_all(copy);
    fs::copy(ranks, copy, fs::copy_options::recursive);
    for (const auto& [rank, tensor, change] : faults) Edit(copy / FileOf(rank), tensor, change);
    return copy;
  }

  // A copy of the BF16 model with changed tensors.
  using TensorChanges = std::vector<std::pair<std::string, Change>>;
  fs::path Changed(const TensorChanges& changes) const {
    const fs::path copy = dir_ / "changed";
    fs::remove_all(copy);
    fs::copy(Bf16(), copy, fs::copy_options::recursive);
    for (const auto& [tensor, change] : changes) Edit(ShardOf(copy, tensor), tensor, change);
    return copy;
  }

  static ForwardRequest Request(const fs::path& model, const fs::path& other = {}) {
    ForwardRequest request;
    request.input = model;
    request.other = other;
    request.sequences = {{3, 141, 59, 26, 5, 35, 89, 79, 32, 38}, {7, 11, 300}, {250, 4, 797, 608}};
    return request;
  }
  static ForwardReport Run(const ForwardRequest& request) {
    convert::ProgressSink progress;
    return convert::RunForward(request, formats::PosixFileSystem(), progress, {});
  }
  static ForwardReport Compare(const fs::path& model, const fs::path& other) {
    return Run(Request(model, other));
  }

  // "rank tensor relation" of each difference.
  static std::vector<std::string> Lines(const std::vector<ModuleDifference>& differences) {
    std::vector<std::string> lines;
    for (const ModuleDifference& one : differences) {
      lines.push_back(fmt::format("{} {} {}", one.rank ? std::to_string(*one.rank) : "all",
                                  one.tensor, convert::RelationName(one.relation)));
    }
    return lines;
  }
  static std::vector<std::string> Differences(const fs::path& model, const fs::path& other) {
    return Lines(Compare(model, other).comparison->differences);
  }

  static void ExpectTheSame(const fs::path& model, const fs::path& ranks) {
    ExpectTheSame(Request(model, ranks));
  }
  static void ExpectTheSame(const ForwardRequest& request) {
    const ForwardReport report = Run(request);
    EXPECT_THAT(Lines(report.comparison->differences), IsEmpty());
    EXPECT_LT(report.comparison->logits.nmse, 1e-11);
    for (const auto& layer : report.comparison->layers) EXPECT_LT(layer.nmse, 1e-11);
    EXPECT_EQ(report.comparison->differing, 0U);
    EXPECT_THAT(convert::JudgeComparison(*report.comparison, {}), IsEmpty());
  }

  // An expert that the last token of the first sequence meets in a layer, and one that no token
  // meets.
  static std::string Expert(const fs::path& model, std::uint64_t layer) {
    ForwardRequest request = Request(model);
    request.routing = true;
    for (const convert::LayerRouting& routing : Run(request).routing) {
      if (routing.layer == layer) {
        return fmt::format("model.layers.{}.mlp.experts.{}.", layer, routing.experts[9].front());
      }
    }
    return "";
  }

  TempDir dir_{MemoryDirectory()};

 private:
  inline static TempDir* shared_ = nullptr;
};

TEST_F(ForwardRanksTest, RanksOfEverySizeGiveTheModelsLogits) {
  struct Case {
    std::uint64_t tp, ep, dp, pp, redundant, embed;
    bool round_robin, component;
  };
  const std::vector<Case> cases = {
      {2, 1, 1, 1, 0, 2, false, false},  {4, 8, 2, 2, 0, 4, false, false},
      {1, 8, 8, 1, 0, 1, true, false},   {8, 4, 1, 1, 0, 8, false, true},
      {2, 16, 8, 3, 16, 2, true, false}, {4, 2, 1, 2, 32, 1, false, true},
      {2, 4, 4, 1, 32, 8, true, false},
  };
  for (const Case& one : Thinned(cases, 3)) {
    SCOPED_TRACE(fmt::format("tp {} ep {} dp {} pp {} redundant {}", one.tp, one.ep, one.dp, one.pp,
                             one.redundant));
    ReshardOptions options = Sizes(one.tp, one.ep);
    options.parallel.dp = one.dp;
    options.parallel.pp = one.pp;
    options.parallel.redundant_experts = one.redundant;
    options.parallel.embed_tp = one.embed;
    options.parallel.shared_expert_tp = 1;
    if (one.round_robin) options.placement.kind = convert::PlacementKind::kRoundRobin;
    if (one.component) options.grouping = RankGrouping::kComponent;
    const fs::path ranks = dir_ / "ranks";
    RunReshard(Fp8(), ranks, options);
    ExpectTheSame(Fp8(), ranks);
    ExpectTheSame(ranks, Bf16());
    const ForwardReport alone = Run(Request(ranks));
    EXPECT_THAT(Lines(alone.rank_differences), IsEmpty());
    ASSERT_TRUE(alone.ranks);
    EXPECT_EQ(alone.ranks->world_size, one.tp * one.dp * one.pp);
    fs::remove_all(ranks);
  }
}

TEST_F(ForwardRanksTest, FormatsAndWaysOutGiveTheModelsLogits) {
  std::vector<std::pair<fs::path, ReshardOptions>> cases;
  for (const bool keep_mtp : {false, true}) {
    cases.emplace_back(Fp8(), ReshardOptions());
    cases.back().second.parallel.tp = keep_mtp ? 4 : 2;
    cases.back().second.format = RankFormat::kDeepseek;
    cases.back().second.keep_mtp = keep_mtp;
  }
  MakeSample(convert::SamplePreset::kTiny, 3, dir_ / "tiny");
  for (const auto way : {convert::OnMisaligned::kReplicateModule, convert::OnMisaligned::kSubblock,
                         convert::OnMisaligned::kBF16}) {
    cases.emplace_back(dir_ / "tiny", Sizes(2, 1));
    cases.back().second.on_misaligned = way;
  }
  for (const auto& [model, options] : cases) {
    SCOPED_TRACE(model);
    RunReshard(model, dir_ / "ranks", options);
    ForwardRequest request = Request(model, dir_ / "ranks");
    request.sequences = {{3, 141, 59, 26, 5, 35, 89, 79, 32, 38}, {7, 11, 300}};
    ExpectTheSame(request);
    fs::remove_all(dir_ / "ranks");
  }
}

TEST_F(ForwardRanksTest, EnginesKeysGiveTheModelsLogits) {
  ReshardOptions options = Sizes(2, 4);
  options.parallel.dp = 2;
  nlohmann::json keys;
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    for (const auto& [name, tensor] : ReadTensors(Ranks() / FileOf(rank))) {
      keys["engine." + name] = {{"dtype", formats::DtypeName(tensor.dtype)},
                                {"shape", tensor.shape},
                                {"sources", {name}}};
    }
  }
  WriteFile(dir_ / "keys.json", keys.dump());
  options.format = RankFormat::kKeys;
  options.keys = dir_ / "keys.json";
  RunReshard(Bf16(), dir_ / "ranks", options);
  ExpectTheSame(Bf16(), dir_ / "ranks");
  const fs::path faulty = Faulty({{2, std::string("engine.") + kNorm, Scale}}, dir_ / "ranks");
  EXPECT_THAT(Differences(Bf16(), faulty), ElementsAre(fmt::format("2 {} scaled", kNorm)));
}

TEST_F(ForwardRanksTest, TwoDeploymentsAreTheSame) {
  RunReshard(Fp8(), dir_ / "one", Sizes(4, 8));
  ExpectTheSame(dir_ / "one", Ranks());
  for (const auto form : {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
    ForwardRequest request = Request(Fp8(), dir_ / "one");
    request.attention = form;
    EXPECT_THAT(Lines(Run(request).comparison->differences), IsEmpty());
  }
}

TEST_F(ForwardRanksTest, PartialSumsAreAddedInTheOrderOfTheRanks) {
  RunReshard(Bf16(), dir_ / "ranks", Sizes(8, 1));
  // The sums of slices are not those of the whole.
  EXPECT_GT(Compare(Bf16(), dir_ / "ranks").comparison->logits.nmse, 0);
  EXPECT_EQ(Compare(dir_ / "ranks", dir_ / "ranks").comparison->logits.nmse, 0);
}

TEST_F(ForwardRanksTest, FaultsOfOneRankAreNamedWithIt) {
  const std::string expert = Expert(Bf16(), 2);
  const std::vector<std::tuple<std::uint64_t, std::string, Change, std::string>> faults = {
      {2, kNorm, Scale, "scaled"},
      {1, kFirstNorm, Zero, "zeroed"},
      {1, kHeads, SwapHalves, "rows-permuted"},
      {3, kOut, Zero, "zeroed"},
      {0, kOut, Scale, "scaled"},
      {2, kRouter, SwapHalves, "rows-permuted"},
      {3, kBias, Scale, "scaled"},
      {1, kShared, Scale, "scaled"},
      {3, kHead, Scale, "scaled"},
      {1, kEmbedding, Scale, "scaled"},
  };
  for (const auto& [rank, tensor, change, relation] : Thinned(faults, 3)) {
    SCOPED_TRACE(fmt::format("{} on rank {}", tensor, rank));
    const fs::path faulty = Faulty({{rank, tensor, change}});
    const std::string expected = fmt::format("{} {} {}", rank, tensor, relation);
    for (const auto form : {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
      ForwardRequest request = Request(Bf16(), faulty);
      request.attention = form;
      const ForwardReport report = Run(request);
      EXPECT_THAT(Lines(report.comparison->differences), ElementsAre(expected));
      for (const ModuleDifference& one : report.comparison->differences) {
        EXPECT_EQ(one.module + one.tensor.substr(one.tensor.rfind('.')), one.tensor);
        EXPECT_GT(one.nmse.value_or(0), 1e-10);
      }
      EXPECT_FALSE(convert::JudgeComparison(*report.comparison, {}).empty());
    }
    EXPECT_THAT(Differences(faulty, Bf16()),
                ElementsAre(HasSubstr(fmt::format("{} {}", rank, tensor))));
    // The other data parallel group has the same slice.
    EXPECT_THAT(Lines(Run(Request(faulty)).rank_differences), ElementsAre(expected));
  }
}

TEST_F(ForwardRanksTest, ThreeFaultsAtOnceAreNamedInTheOrderOfExecution) {
  const fs::path faulty = Faulty({{3, kOut, Zero}, {2, kNorm, Scale}, {1, kHeads, SwapHalves}});
  const auto expected =
      ElementsAre(fmt::format("1 {} rows-permuted", kHeads), fmt::format("2 {} scaled", kNorm),
                  fmt::format("3 {} zeroed", kOut));
  EXPECT_THAT(Differences(Bf16(), faulty), expected);
  EXPECT_THAT(Lines(Run(Request(faulty)).rank_differences), expected);
}

TEST_F(ForwardRanksTest, AFaultThatAllRanksHaveHasNoRank) {
  const fs::path faulty = Faulty({{0, kNorm, Scale},
                                  {1, kNorm, Scale},
                                  {2, kNorm, Scale},
                                  {3, kNorm, Scale},
                                  {0, kOut, Scale},
                                  {1, kOut, Scale},
                                  {2, kOut, Scale},
                                  {3, kOut, Scale}});
  EXPECT_THAT(Differences(Bf16(), faulty),
              ElementsAre(fmt::format("all {} scaled", kNorm), fmt::format("all {} scaled", kOut)));
  EXPECT_THAT(Lines(Run(Request(faulty)).rank_differences), IsEmpty());
}

TEST_F(ForwardRanksTest, EveryCopyOfAnExpertIsCompared) {
  ReshardOptions options = Sizes(1, 4);
  options.parallel.redundant_experts = 32;
  RunReshard(Bf16(), dir_ / "ranks", options);
  const std::string expert = Expert(Bf16(), 2) + "down_proj.weight";
  std::vector<std::uint64_t> holders;
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    if (ReadTensors(dir_ / "ranks" / FileOf(rank)).contains(expert)) holders.push_back(rank);
  }
  ASSERT_EQ(holders.size(), 2U);
  for (const std::uint64_t rank : holders) {
    const fs::path faulty = Faulty({{rank, expert, Scale}}, dir_ / "ranks");
    const std::string expected = fmt::format("{} {} scaled", rank, expert);
    EXPECT_THAT(Differences(Bf16(), faulty), ElementsAre(expected));
    EXPECT_THAT(Lines(Run(Request(faulty)).rank_differences), ElementsAre(expected));
  }
}

TEST_F(ForwardRanksTest, AScaleOfOneRankIsNamedByItsWeight) {
  ReshardOptions options = Sizes(2, 4);
  options.parallel.dp = 2;
  RunReshard(Fp8(), dir_ / "ranks", options);
  for (const std::uint64_t rank : {std::uint64_t{0}, std::uint64_t{3}}) {
    const fs::path faulty =
        Faulty({{rank, std::string(kOut) + "_scale_inv", Scale}}, dir_ / "ranks");
    const std::string expected = fmt::format("{} {} scaled", rank, kOut);
    EXPECT_THAT(Differences(Bf16(), faulty), ElementsAre(expected));
    EXPECT_THAT(Lines(Run(Request(faulty)).rank_differences), ElementsAre(expected));
  }
}

// A rank whose norm is zero adds nothing to the sum of the ranks. So its part of the model can be
// taken out of a checkpoint.
TEST_F(ForwardRanksTest, EachRankRunsWithItsOwnCopies) {
  RunReshard(Bf16(), dir_ / "ranks", Sizes(2, 2));
  TensorChanges experts = {{"model.layers.2.mlp.shared_experts.down_proj.weight", NoRightHalf}};
  for (int expert = 16; expert < 32; ++expert) {
    experts.emplace_back(fmt::format("model.layers.2.mlp.experts.{}.down_proj.weight", expert),
                         Zero);
  }
  const std::vector<std::pair<std::string, TensorChanges>> cases = {
      {kFirstNorm, {{"model.layers.0.self_attn.o_proj.weight", NoRightHalf}}},
      {"model.layers.0.post_attention_layernorm.weight",
       {{"model.layers.0.mlp.down_proj.weight", NoRightHalf}}},
      {kNorm, experts},
      {"model.norm.weight", {{kHead, NoRowsOfRank1}}},
  };
  for (const auto& [norm, changes] : cases) {
    SCOPED_TRACE(norm);
    const fs::path faulty = Faulty({{1, norm, Zero}}, dir_ / "ranks");
    const fs::path model = Changed(changes);
    for (const auto form : {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
      ForwardRequest request = Request(model, faulty);
      request.attention = form;
      EXPECT_LT(Run(request).comparison->logits.nmse, 1e-11);
      request.input = Bf16();
      EXPECT_GT(Run(request).comparison->logits.nmse, 1e-6);
    }
  }
}

// A rank whose own stream begins with zeros adds nothing to the first part of the layer that does
// not add zeros, and makes zeros with its rows of the head where no part does.
TEST_F(ForwardRanksTest, EachRankBeginsAnMtpLayerWithItsOwnCopies) {
  const std::string layer = "model.layers.4.";
  const std::string out = layer + "self_attn.o_proj.weight";
  const std::string shared = layer + "mlp.shared_experts.down_proj.weight";
  const auto expert = [&](int i) {
    return fmt::format("{}mlp.experts.{}.down_proj.weight", layer, i);
  };
  TensorChanges no_mlp = {{shared, Zero}};
  TensorChanges right_mlp = {{shared, NoRightHalf}};
  for (int i = 0; i < 32; ++i) no_mlp.emplace_back(expert(i), Zero);
  for (int i = 16; i < 32; ++i) right_mlp.emplace_back(expert(i), Zero);
  struct Case {
    const char* name;
    TensorChanges before;  // what the ranks are cut from
    TensorChanges same;    // with these, the model makes what the ranks do
    bool all_columns;      // otherwise those of the rank without a fault
  };
  const auto with = [](TensorChanges changes, const std::string& tensor, const Change& change) {
    changes.emplace_back(tensor, change);
    return changes;
  };
  const std::vector<Case> cases = {
      {"attention", no_mlp, {{out, NoRightHalf}}, false},
      {"experts", {{out, Zero}}, right_mlp, false},
      {"head", with(no_mlp, out, Zero), {{layer + "shared_head.head.weight", NoRowsOfRank1}}, true},
  };
  const std::vector<TensorChanges> faults = {
      {{layer + "eh_proj.weight", Zero}},
      {{layer + "enorm.weight", Zero}, {layer + "hnorm.weight", Zero}},
      {{layer + "enorm.weight", Zero}, {"model.norm.weight", Zero}}};
  const auto mtp_logits = [&](const fs::path& model) {
    ForwardRequest request = Request(model);
    request.mtp_logits = dir_ / "mtp.npy";
    Run(request);
    return NpyFloats(dir_ / "mtp.npy");
  };
  for (const Case& one : Thinned(cases, 2)) {
    SCOPED_TRACE(one.name);
    RunReshard(Changed(one.before), dir_ / "cut", Sizes(2, 2));
    TensorChanges changes = one.before;
    changes.insert(changes.end(), one.same.begin(), one.same.end());
    const std::vector<float> expected = mtp_logits(Changed(changes));
    const std::vector<float> faultless = mtp_logits(dir_ / "cut");
    for (const TensorChanges& fault : faults) {
      SCOPED_TRACE(fault.back().first);
      std::vector<Fault> of_rank;
      for (const auto& [tensor, change] : fault) of_rank.emplace_back(1, tensor, change);
      const std::vector<float> made = mtp_logits(Faulty(of_rank, dir_ / "cut"));
      ASSERT_EQ(made.size(), expected.size());
      double error = 0;
      double squares = 0;
      double change = 0;
      for (std::size_t i = 0; i < made.size(); ++i) {
        if (!one.all_columns && i % kVocabulary >= kRowsOfRank) continue;
        error += std::pow(made[i] - expected[i], 2);
        change += std::pow(made[i] - faultless[i], 2);
        squares += std::pow(expected[i], 2);
      }
      EXPECT_LT(error / squares, 1e-11);
      EXPECT_GT(change / squares, 1e-6);
    }
    fs::remove_all(dir_ / "cut");
  }
}

TEST_F(ForwardRanksTest, SequencesAreDealtOutToDataParallelGroups) {
  const fs::path faulty = Faulty({{2, "model.norm.weight", Zero}, {3, "model.norm.weight", Zero}});
  ForwardRequest request = Request(faulty);
  request.top = 1;
  const ForwardReport report = Run(request);
  EXPECT_NE(report.top[0][0].logit, 0);
  EXPECT_EQ(report.top[1][0].logit, 0);
  EXPECT_NE(report.top[2][0].logit, 0);
  request.input = Faulty({{2, kEmbedding, Zero}, {3, kEmbedding, Zero}});
  const ForwardReport embedded = Run(request);
  request.input = Ranks();
  const ForwardReport right = Run(request);
  EXPECT_EQ(embedded.top[0][0].logit, right.top[0][0].logit);
  EXPECT_NE(embedded.top[1][0].logit, right.top[1][0].logit);
}

TEST_F(ForwardRanksTest, RanksGenerateWithTheirOwnCopies) {
  ForwardRequest request = Request(Faulty({{1, kFirstNorm, Scale}, {0, kNorm, Zero}}));
  request.sequences = {{3, 141, 59, 26, 5}};
  request.generate = 3;
  const std::vector<std::uint32_t> next = Run(request).generated.front();
  request.sequences.front().insert(request.sequences.front().end(), next.begin(), next.end() - 1);
  request.generate = 1;
  EXPECT_EQ(Run(request).generated.front().front(), next.back());
}

TEST_F(ForwardRanksTest, ReportsDoNotDependOnThreadsAndMemory) {
  const fs::path faulty = Faulty({{3, kOut, Zero}, {2, kNorm, Scale}});
  ForwardRequest request = Request(faulty, Bf16());
  const ForwardReport expected = Run(request);
  request.threads = 3;
  request.memory_bytes = 1;
  const ForwardReport other = Run(request);
  EXPECT_EQ(Lines(other.comparison->differences), Lines(expected.comparison->differences));
  EXPECT_EQ(other.comparison->logits.nmse, expected.comparison->logits.nmse);
  for (std::size_t i = 0; i < expected.comparison->differences.size(); ++i) {
    EXPECT_EQ(other.comparison->differences[i].nmse, expected.comparison->differences[i].nmse);
  }
}

TEST_F(ForwardRanksTest, RefusesWhatIsNotOfTheLayout) {
  const fs::path nan = Faulty({{1, kOut, SpoilFirst}});
  const Error error = ErrorOf([&] { Run(Request(nan)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, kOut);
  EXPECT_EQ(error.place().file, FileOf(1));
  EXPECT_THAT(error.message(), HasSubstr(FileOf(1)));

  fs::remove(Faulty({}) / FileOf(3));
  const Error missing = ErrorOf([&] { Run(Request(dir_ / "faulty")); });
  EXPECT_EQ(missing.code(), ErrorCode::kBadInput);
  EXPECT_THAT(missing.message(), HasSubstr(FileOf(3)));

  const fs::path layout = Faulty({}) / "layout.json";
  std::string text = ReadFile(layout);
  const std::string whole = fmt::format("\"name\":\"{}\",\"dtype\":\"BF16\"", kNorm);
  text.replace(text.find(whole), whole.size(),
               fmt::format("\"name\":\"{}\",\"dtype\":\"F32\"", kNorm));
  fs::remove(layout);
  WriteFile(layout, text);
  const Error contradicts = ErrorOf([&] { Run(Request(dir_ / "faulty")); });
  EXPECT_EQ(contradicts.code(), ErrorCode::kBadInput);
  EXPECT_THAT(contradicts.message(), HasSubstr(kNorm));
}

}  // namespace
}  // namespace dsv3::testing
