#include "convert/recipes/reshard.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/reshard_job.h"
#include "convert/recipes/reshard_tensors.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::PlacementKind;
using convert::RankFormat;
using convert::RankGrouping;
using convert::ReshardOptions;
using convert::ReshardReport;
using convert::SamplePreset;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using Tensors = std::map<std::string, HeldTensor>;

// The tiny-tp preset: 16 heads, layer 0 dense, layers 1 to 3 and MTP layer 4 with 32 experts of 256
// rows, a vocabulary of 1000, blocks of 128.
class ReshardTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir(MemoryDirectory());
    MakeSample(SamplePreset::kTinyTp, 7, *shared_ / "model");
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  fs::path model() const { return *shared_ / "model"; }
  fs::path out() const { return dir_ / "out"; }

  static ReshardOptions Options(std::uint64_t tp, std::uint64_t ep) {
    ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    return options;
  }
  ReshardReport Run(const ReshardOptions& options) const {
    return RunReshard(model(), out(), options);
  }
  Error Refusal(const ReshardOptions& options) const {
    Error error = ErrorOf([&] { Run(options); });
    EXPECT_FALSE(fs::exists(out()));
    return error;
  }
  ReshardReport Planned(const ReshardOptions& options) const {
    convert::RunOptions run;
    run.dry_run = true;
    return RunReshard(model(), out(), options, run);
  }

  TempDir dir_{MemoryDirectory()};
  static TempDir* shared_;
};

TempDir* ReshardTest::shared_ = nullptr;

// What a rank holds, by engines.md's rules alone: one expert placed contiguously, blocks of 128.
struct RankSizes {
  std::uint64_t tp, ep, dp;
  std::uint64_t moe_tp() const { return tp * dp / ep; }
};

bool EndsWithAny(const std::string& module, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return module.ends_with(name); });
}

std::optional<HeldTensor> HeldBy(const std::string& name, const HeldTensor& tensor,
                                 const RankSizes& sizes, std::uint64_t rank) {
  const std::string module = name.substr(0, name.rfind('.'));
  std::uint64_t ways = 1;
  static const std::regex kExpert(R"(\.experts\.(\d+)\.)");
  std::smatch expert;
  if (std::regex_search(module, expert, kExpert)) {
    const std::uint64_t held = 32 / sizes.ep;
    if (std::stoull(expert[1]) / held != rank / sizes.moe_tp()) return std::nullopt;
    ways = sizes.moe_tp();
  } else if (EndsWithAny(module, {"embed_tokens", "lm_head", "shared_head.head"})) {
    const std::uint64_t rows = 1024 / sizes.tp;
    return CutOut(tensor, rank % sizes.tp * rows, rows, 0, tensor.shape[1]);
  } else {
    ways = sizes.tp;
  }
  const std::uint64_t part = rank % ways;
  if (EndsWithAny(module, {".q_b_proj", ".kv_b_proj", ".gate_proj", ".up_proj"})) {
    const std::uint64_t rows = tensor.shape[0] / ways;
    return CutOut(tensor, part * rows, rows, 0, tensor.shape[1]);
  }
  if (EndsWithAny(module, {".o_proj", ".down_proj"})) {
    const std::uint64_t cols = tensor.shape[1] / ways;
    return CutOut(tensor, 0, tensor.shape[0], part * cols, cols);
  }
  return tensor;
}

TEST_F(ReshardTest, RanksHoldWhatTheRulesSay) {
  const Tensors source = ReadCheckpoint(model());
  for (const RankSizes sizes : {RankSizes{2, 1, 1}, {2, 4, 2}, {2, 2, 2}, {1, 4, 4}}) {
    ReshardOptions options = Options(sizes.tp, sizes.ep);
    options.parallel.dp = sizes.dp;
    const ReshardReport report = Run(options);
    for (std::uint64_t rank = 0; rank < sizes.tp * sizes.dp; ++rank) {
      Tensors expected;
      for (const auto& [name, tensor] : source) {
        if (auto held = HeldBy(name, tensor, sizes, rank)) expected[name] = std::move(*held);
      }
      const Tensors held = ReadTensors(out(), report.ranks.at(rank).files);
      ASSERT_EQ(held.size(), expected.size());
      for (const auto& [name, tensor] : expected) EXPECT_EQ(held.at(name), tensor) << name;
    }
    fs::remove_all(out());
  }
}

TEST_F(ReshardTest, FilesAreNamedByRankAndPartAndSayThatTheyArePyTorchs) {
  ReshardOptions options = Options(2, 2);
  options.max_shard_bytes = 12 << 20;
  const ReshardReport report = Run(options);
  EXPECT_THAT(report.ranks.at(0).files,
              ElementsAre("model-rank-0-part-0.safetensors", "model-rank-0-part-1.safetensors"));
  EXPECT_THAT(report.ranks.at(1).files,
              ElementsAre("model-rank-1-part-0.safetensors", "model-rank-1-part-1.safetensors"));
  const formats::SafetensorsHeader header =
      formats::ReadSafetensorsHeader(out() / "model-rank-1-part-1.safetensors", "file");
  EXPECT_THAT(header.metadata, ElementsAre(std::pair("format", "pt")));
}

TEST_F(ReshardTest, PartsBeginAtTheSameTensorInAllRanksAndKeepToTheirSize) {
  ReshardOptions options = Options(2, 1);  // every rank holds a part of every tensor
  constexpr std::uint64_t kLimit = 512 << 10;
  options.max_shard_bytes = kLimit;
  const ReshardReport report = Run(options);
  std::map<std::string, std::set<std::size_t>> parts_of;  // over all ranks
  for (const convert::RankReport& rank : report.ranks) {
    for (std::size_t part = 0; part < rank.files.size(); ++part) {
      const Tensors tensors = ReadTensors(out() / rank.files[part]);
      std::uint64_t bytes = 0;
      for (const auto& [name, tensor] : tensors) {
        bytes += tensor.bytes.size();
        parts_of[name].insert(part);
        if (!name.ends_with("_scale_inv")) continue;
        EXPECT_EQ(tensors.count(name.substr(0, name.size() - 10)), 1U) << name;
      }
      // A larger weight has a file of its own, with its scale.
      if (bytes > kLimit) {
        EXPECT_LE(tensors.size(), 2U) << rank.files[part];
      }
    }
  }
  for (const auto& [name, parts] : parts_of) EXPECT_EQ(parts.size(), 1U) << name;
}

TEST_F(ReshardTest, ARankWithTwoReplicasHoldsOneCopy) {
  ReshardOptions options = Options(1, 2);
  options.parallel.redundant_experts = 32;
  // All replicas of the first 16 experts are rank 0's in layer 1.
  Json map = Json::array();
  for (int layer = 0; layer < 4; ++layer) {
    Json slots = Json::array();
    for (int p = 0; p < 64; ++p) slots.push_back(layer == 1 ? p / 32 * 16 + p % 16 : p % 32);
    map.push_back(slots);
  }
  WriteFile(dir_ / "placement.json", Json{{"physical_to_logical_map", map}}.dump());
  options.placement.kind = PlacementKind::kFile;
  options.placement.file = dir_ / "placement.json";
  const ReshardReport report = Run(options);
  const Tensors first = ReadTensors(out(), report.ranks.at(0).files);
  const Tensors second = ReadTensors(out(), report.ranks.at(1).files);
  for (int expert = 0; expert < 32; ++expert) {
    const std::string module = ".mlp.experts." + std::to_string(expert) + ".up_proj.weight";
    EXPECT_EQ(first.count("model.layers.1" + module), expert < 16 ? 1U : 0U);
    EXPECT_EQ(second.count("model.layers.1" + module), expert < 16 ? 0U : 1U);
    // Physical p is logical p mod 32 elsewhere, so that both have all.
    EXPECT_EQ(first.count("model.layers.2" + module), 1U);
    EXPECT_EQ(second.count("model.layers.4" + module), 1U);
  }
  EXPECT_EQ(report.ranks[0].experts, 16U + 32 + 32 + 32);
  EXPECT_EQ(Json::parse(ReadFile(out() / "expert_location.json"))["physical_to_logical_map"], map);
}

TEST_F(ReshardTest, ExpertLocationComesWithEveryPlacementButThePlainOne) {
  Run(Options(2, 4));
  EXPECT_FALSE(fs::exists(out() / "expert_location.json"));
  fs::remove_all(out());
  ReshardOptions options = Options(2, 4);
  options.placement.kind = PlacementKind::kRoundRobin;
  Run(options);
  EXPECT_TRUE(fs::exists(out() / "expert_location.json"));
  fs::remove_all(out());
  options = Options(2, 4);
  options.parallel.redundant_experts = 4;
  Run(options);
  EXPECT_TRUE(fs::exists(out() / "expert_location.json"));
}

TEST_F(ReshardTest, ComponentsAreStoredOnceAndGiveEveryRankTheSame) {
  ReshardOptions options = Options(2, 4);
  options.parallel.pp = 2;
  options.parallel.redundant_experts = 4;
  options.max_shard_bytes = 1 << 20;
  const ReshardReport by_rank = RunReshard(model(), dir_ / "ranks", options);
  options.grouping = RankGrouping::kComponent;
  const ReshardReport by_component = Run(options);

  std::set<std::string> seen;  // name and bytes
  std::map<std::string, Tensors> files;
  for (const convert::OutputFileReport& file : by_component.conversion.files) {
    files[file.name] = ReadTensors(out() / file.name);
    for (const auto& [name, tensor] : files[file.name]) {
      // Norms and the like may be equal under several names, but no tensor is stored twice.
      EXPECT_TRUE(seen.insert(name + '\0' + tensor.bytes).second) << file.name << ": " << name;
    }
  }
  ASSERT_EQ(by_rank.ranks.size(), by_component.ranks.size());
  for (std::size_t rank = 0; rank < by_rank.ranks.size(); ++rank) {
    const Tensors held = ReadTensors(dir_ / "ranks", by_rank.ranks[rank].files);
    std::map<std::string, std::vector<HeldTensor>> offered;
    for (const std::string& file : by_component.ranks[rank].files) {
      for (const auto& [name, tensor] : files.at(file)) offered[name].push_back(tensor);
    }
    for (const auto& [name, tensor] : held) {
      EXPECT_THAT(offered[name], ::testing::Contains(tensor)) << rank << ": " << name;
    }
    EXPECT_EQ(by_rank.ranks[rank].bytes, by_component.ranks[rank].bytes);
    EXPECT_EQ(by_rank.ranks[rank].parameters, by_component.ranks[rank].parameters);
  }
}

TEST_F(ReshardTest, ComponentsAreNamedByWhatTheyHold) {
  ReshardOptions options = Options(2, 2);
  options.parallel.dp = 2;
  options.grouping = RankGrouping::kComponent;
  ReshardReport report = Planned(options);
  EXPECT_THAT(
      report.ranks.at(3).files,
      ElementsAre("model-attention-tp-1-part-0.safetensors", "model-common-part-0.safetensors",
                  "model-dense-tp-1-part-0.safetensors", "model-embed-tp-1-part-0.safetensors",
                  "model-experts-ep-1-tp-1-part-0.safetensors",
                  "model-shared-expert-tp-1-part-0.safetensors"));
  options.parallel.pp = 2;
  options.parallel.dp = std::nullopt;
  report = Planned(options);
  EXPECT_THAT(report.ranks.at(2).files,
              ElementsAre("model-stage-1-attention-tp-0-part-0.safetensors",
                          "model-stage-1-common-part-0.safetensors",
                          "model-stage-1-embed-tp-0-part-0.safetensors",
                          "model-stage-1-experts-ep-0-part-0.safetensors",
                          "model-stage-1-shared-expert-tp-0-part-0.safetensors"));
}

TEST_F(ReshardTest, SomeRanksAloneMakeTheirFilesAndTheRestFollows) {
  ReshardOptions options = Options(2, 4);
  const ReshardReport whole = RunReshard(model(), dir_ / "whole", options);
  options.ranks = {{1, 1}, {3, 3}};
  EXPECT_EQ(Run(options).conversion.outcome, convert::ConversionReport::Outcome::kPartDone);
  EXPECT_TRUE(fs::exists(out() / "model-rank-1-part-0.safetensors"));
  EXPECT_FALSE(fs::exists(out() / "model-rank-0-part-0.safetensors"));
  EXPECT_FALSE(fs::exists(out() / "layout.json"));
  options.ranks = {{0, 2}};
  EXPECT_EQ(Run(options).conversion.outcome, convert::ConversionReport::Outcome::kConverted);
  EXPECT_EQ(ReadTree(out()), ReadTree(dir_ / "whole"));
}

TEST_F(ReshardTest, CountsBytesAndParametersOfEveryRank) {
  const ReshardReport report = Run(Options(2, 4));
  for (const convert::RankReport& rank : report.ranks) {
    std::uint64_t bytes = 0;
    std::uint64_t parameters = 0;
    for (const auto& [name, tensor] : ReadTensors(out(), rank.files)) {
      bytes += tensor.bytes.size();
      if (!name.ends_with("_scale_inv")) parameters += *formats::NumElements(tensor.shape);
    }
    EXPECT_EQ(rank.bytes, bytes);
    EXPECT_EQ(rank.parameters, parameters);
    EXPECT_EQ(rank.experts, 4U * 8);
    std::uint64_t by_kind = 0;
    for (const std::uint64_t kind : rank.bytes_by_kind) by_kind += kind;
    EXPECT_EQ(by_kind, bytes);
  }
  EXPECT_EQ(report.expert_map.size(), 4U);
  EXPECT_EQ(report.first_moe_layer, 1U);
}

TEST_F(ReshardTest, RefusesOptionsThatContradict) {
  ReshardOptions options = Options(2, 2);
  options.max_shard_bytes = 0;
  EXPECT_THAT(Refusal(options).message(), HasSubstr("--max-shard-size 0"));
  options = Options(2, 2);
  options.ranks = {{1, 4}};
  Error error = Refusal(options);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("--ranks 1-4"), HasSubstr("0 to 1")));
  options.ranks = {{1, 0}};
  EXPECT_THAT(Refusal(options).message(), HasSubstr("--ranks 1-0"));
  options = Options(4, 1);
  error = Refusal(options);
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--on-misaligned"));
  options = Options(2, 2);
  options.grouping = RankGrouping::kComponent;
  options.format = RankFormat::kKeys;
  options.keys = "keys.json";
  EXPECT_THAT(Refusal(options).message(), HasSubstr("--grouping component"));
}

TEST_F(ReshardTest, RefusesModelsUnderOtherNames) {
  TinyCheckpoint checkpoint;
  checkpoint.Add("model.safetensors", "layers.0.attn.wq_b.weight", formats::Dtype::kBF16, {64, 8});
  checkpoint.Write(dir_ / "v4");
  Json config = {
      {"model_type", "deepseek_v41"}, {"hidden_size", 8},         {"vocab_size", 64},
      {"num_hidden_layers", 1},       {"num_attention_heads", 4}, {"n_routed_experts", 0}};
  WriteFile(dir_ / "v4" / "config.json", config.dump());
  const Error error = ErrorOf([&] { RunReshard(dir_ / "v4", out(), Options(2, 1)); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("'deepseek_v41'"), HasSubstr("self_attn.o_proj")));
  EXPECT_FALSE(fs::exists(out()));
  // One rank holds the whole model, whatever it is called.
  RunReshard(dir_ / "v4", out(), Options(1, 1));

  checkpoint.Add("model.safetensors", "model.layers.0.self_attn.o_proj.weight",
                 formats::Dtype::kBF16, {8, 64});
  checkpoint.Write(dir_ / "fused");
  config["n_routed_experts"] = 4;
  config["moe_intermediate_size"] = 8;
  WriteFile(dir_ / "fused" / "config.json", config.dump());
  EXPECT_THAT(ErrorOf([&] { RunReshard(dir_ / "fused", dir_ / "none", Options(2, 2)); }).message(),
              HasSubstr("mlp.experts.0"));
}

// Grouped heads under V3's names: the rules would cut q_proj and o_proj, and hold k_proj and v_proj
// whole.
TEST_F(ReshardTest, RefusesAnotherArchitecture) {
  TinyCheckpoint checkpoint;
  const auto add = [&](const std::string& name, const formats::Shape& shape) {
    checkpoint.Add("model.safetensors", name, formats::Dtype::kBF16, shape);
  };
  add("model.embed_tokens.weight", {64, 8});
  add("model.norm.weight", {8});
  add("lm_head.weight", {64, 8});
  const std::string layer = "model.layers.0.";
  add(layer + "self_attn.q_proj.weight", {16, 8});
  add(layer + "self_attn.k_proj.weight", {4, 8});
  add(layer + "self_attn.v_proj.weight", {4, 8});
  add(layer + "self_attn.o_proj.weight", {8, 16});
  add(layer + "mlp.gate_proj.weight", {16, 8});
  add(layer + "mlp.up_proj.weight", {16, 8});
  add(layer + "mlp.down_proj.weight", {8, 16});
  checkpoint.Write(dir_ / "grouped");
  Json config = {{"hidden_size", 8},       {"vocab_size", 64},         {"intermediate_size", 16},
                 {"num_hidden_layers", 1}, {"num_attention_heads", 4}, {"num_key_value_heads", 1}};
  WriteFile(dir_ / "grouped" / "config.json", config.dump());
  EXPECT_THAT(ErrorOf([&] { RunReshard(dir_ / "grouped", out(), Options(2, 1)); }).message(),
              HasSubstr("model_type is missing"));
  for (const char* type : {"llama", "qwen3_moe", "glm4_moe"}) {
    config["model_type"] = type;
    WriteFile(dir_ / "grouped" / "config.json", config.dump());
    const Error error = ErrorOf([&] { RunReshard(dir_ / "grouped", out(), Options(2, 1)); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr(type));
    EXPECT_EQ(error.place().file, "config.json");
  }
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(ReshardTest, RefusesMoreTensorsThanAPlanCanHold) {
  convert::RankTensorCount count;
  count.Add(convert::kMaxRankTensors - 1);
  count.Add(1);
  const Error error = ErrorOf([&] { count.Add(1); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--ep"));
}

TEST_F(ReshardTest, RefusesToDeleteTheSource) {
  convert::RunOptions run;
  run.delete_source_shards = true;
  const Error error = ErrorOf([&] { RunReshard(model(), out(), Options(2, 2), run); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--delete-source-shards"));
}

TEST_F(ReshardTest, RefusesASideFileThatHasTheNameOfItsOwn) {
  fs::copy(model(), dir_ / "model");
  WriteFile(dir_ / "model" / "expert_location.json", "{}");
  RunReshard(dir_ / "model", dir_ / "plain", Options(2, 2));
  EXPECT_EQ(ReadFile(dir_ / "plain" / "expert_location.json"), "{}");
  ReshardOptions options = Options(2, 2);
  options.placement.kind = PlacementKind::kRoundRobin;
  const Error error = ErrorOf([&] { RunReshard(dir_ / "model", out(), options); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("expert_location.json"));
}

}  // namespace
}  // namespace dsv3::testing
