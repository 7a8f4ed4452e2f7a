#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/reshard_job.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::RankFormat;
using convert::ReshardOptions;
using convert::SamplePreset;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tensors = std::map<std::string, HeldTensor>;

// The steps of the official script for one rank of mp, told in family.md: rename, look the module
// up, take the part. `layers` is where MTP layers begin.
class OfficialSteps {
 public:
  OfficialSteps(std::uint64_t experts, std::uint64_t mp, std::uint64_t layers)
      : held_experts_(experts / mp), mp_(mp), mtp_(fmt::format("model.layers.{}.", layers)) {}

  Tensors RankOf(const Tensors& source, std::uint64_t rank) const {
    Tensors held;
    for (const auto& [name, tensor] : source) {
      if (name.starts_with(mtp_)) continue;
      Add(name, tensor, rank, held);
    }
    return held;
  }

 private:
  struct Row {
    const char* module;
    const char* name;
    int dimension;  // −1: not cut
  };
  static constexpr std::array<Row, 21> kRows = {{{"embed_tokens", "embed", 0},
                                                 {"input_layernorm", "attn_norm", -1},
                                                 {"post_attention_layernorm", "ffn_norm", -1},
                                                 {"q_proj", "wq", 0},
                                                 {"q_a_proj", "wq_a", -1},
                                                 {"q_a_layernorm", "q_norm", -1},
                                                 {"q_b_proj", "wq_b", 0},
                                                 {"kv_a_proj_with_mqa", "wkv_a", -1},
                                                 {"kv_a_layernorm", "kv_norm", -1},
                                                 {"kv_b_proj", "wkv_b", 0},
                                                 {"o_proj", "wo", 1},
                                                 {"gate", "gate", -1},
                                                 {"gate_proj", "w1", 0},
                                                 {"down_proj", "w2", 1},
                                                 {"up_proj", "w3", 0},
                                                 {"norm", "norm", -1},
                                                 {"lm_head", "head", 0},
                                                 {"wq_b", "wq_b", -1},
                                                 {"wk", "wk", -1},
                                                 {"k_norm", "k_norm", -1},
                                                 {"weights_proj", "weights_proj", -1}}};

  static void Replace(std::string& text, const std::string& from, const std::string& to) {
    for (std::size_t at = text.find(from); at != std::string::npos;
         at = text.find(from, at + to.size())) {
      text.replace(at, from.size(), to);
    }
  }

  void Add(std::string name, const HeldTensor& tensor, std::uint64_t rank, Tensors& held) const {
    if (name.starts_with("model.")) name = name.substr(6);
    Replace(name, "self_attn", "attn");
    Replace(name, "mlp", "ffn");
    Replace(name, "weight_scale_inv", "scale");
    Replace(name, "e_score_correction_bias", "bias");
    std::vector<std::string> segments;
    for (std::size_t begin = 0; begin <= name.size();) {
      const std::size_t end = std::min(name.find('.', begin), name.size());
      segments.push_back(name.substr(begin, end - begin));
      begin = end + 1;
    }
    const std::string module = segments.at(segments.size() - 2);
    const auto row = std::find_if(kRows.begin(), kRows.end(),
                                  [&](const Row& each) { return each.module == module; });
    ASSERT_NE(row, kRows.end()) << name;
    Replace(name, module, row->name);
    if (name.find("experts") != std::string::npos &&
        name.find("shared_experts") == std::string::npos) {
      const std::uint64_t expert = std::stoull(segments.at(segments.size() - 3));
      if (expert / held_experts_ == rank) held[name] = tensor;
      return;
    }
    if (row->dimension == 0) {
      const std::uint64_t rows = tensor.shape.at(0) / mp_;
      const std::uint64_t cols = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
      held[name] = CutOut(tensor, rank * rows, rows, 0, cols);
    } else if (row->dimension == 1) {
      const std::uint64_t cols = tensor.shape.at(1) / mp_;
      held[name] = CutOut(tensor, 0, tensor.shape[0], rank * cols, cols);
    } else {
      held[name] = tensor;
    }
  }

  std::uint64_t held_experts_;
  std::uint64_t mp_;
  std::string mtp_;
};

class ReshardDeepseekTest : public ::testing::Test {
 protected:
  fs::path model() const { return dir_ / "model"; }
  fs::path out() const { return dir_ / "out"; }

  static ReshardOptions Options(std::uint64_t mp) {
    ReshardOptions options;
    options.parallel.tp = mp;
    options.format = RankFormat::kDeepseek;
    return options;
  }

  void ExpectOfficial(std::uint64_t mp, std::uint64_t experts, std::uint64_t layers) const {
    RunReshard(model(), out(), Options(mp));
    const Tensors source = ReadCheckpoint(model());
    const OfficialSteps steps(experts, mp, layers);
    for (std::uint64_t rank = 0; rank < mp; ++rank) {
      const fs::path file = out() / fmt::format("model{}-mp{}.safetensors", rank, mp);
      const Tensors expected = steps.RankOf(source, rank);
      const Tensors held = ReadTensors(file);
      ASSERT_EQ(held.size(), expected.size());
      for (const auto& [name, tensor] : expected) EXPECT_EQ(held.at(name), tensor) << name;
      // As save_file writes it.
      const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(file, "file");
      EXPECT_THAT(header.metadata, IsEmpty());
      std::vector<formats::SafetensorsTensor> ordered = header.tensors;
      formats::LayOutTensors(ordered);
      for (std::size_t i = 0; i < ordered.size(); ++i) {
        EXPECT_EQ(ordered[i].name, header.tensors[i].name);
      }
    }
    fs::remove_all(out());
  }

  Error Refusal(const ReshardOptions& options) const {
    Error error = ErrorOf([&] { RunReshard(model(), out(), options); });
    EXPECT_FALSE(fs::exists(out()));
    return error;
  }

  TempDir dir_{MemoryDirectory()};
};

TEST_F(ReshardDeepseekTest, FilesHoldWhatTheOfficialScriptWrites) {
  MakeSample(SamplePreset::kTinyTp, 5, model());
  for (const std::uint64_t mp : {1U, 2U, 4U}) {
    SCOPED_TRACE(mp);
    ExpectOfficial(mp, 32, 4);
  }
}

TEST_F(ReshardDeepseekTest, IndexersOfV32ArePassedOn) {
  MakeSample(SamplePreset::kTinyV32, 5, model());
  ExpectOfficial(1, 8, 4);
}

TEST_F(ReshardDeepseekTest, ThereIsOneFileARankWhateverItsSize) {
  MakeSample(SamplePreset::kTiny, 5, model());
  ReshardOptions options = Options(1);
  options.max_shard_bytes = 1000;
  const convert::ReshardReport report = RunReshard(model(), out(), options);
  EXPECT_EQ(report.conversion.files.size(), 1U);
}

TEST_F(ReshardDeepseekTest, SideFilesAreCopied) {
  MakeSample(SamplePreset::kTiny, 5, model());
  RunReshard(model(), out(), Options(1));
  for (const char* const name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(ReadFile(out() / name), ReadFile(model() / name));
  }
  EXPECT_TRUE(fs::exists(out() / "config.json"));
}

TEST_F(ReshardDeepseekTest, MtpLayersAreKeptOnRequestUnderTheirNames) {
  MakeSample(SamplePreset::kTinyTp, 5, model());
  ReshardOptions options = Options(2);
  options.keep_mtp = true;
  RunReshard(model(), out(), options);
  const Tensors source = ReadCheckpoint(model());
  const Tensors held = ReadTensors(out() / "model1-mp2.safetensors");
  const auto expect = [&](const char* name, const HeldTensor& tensor) {
    ASSERT_EQ(held.count(name), 1U) << name;
    EXPECT_EQ(held.at(name), tensor) << name;
  };
  const std::string mtp = "model.layers.4.";
  expect("layers.4.enorm.weight", source.at(mtp + "enorm.weight"));
  expect("layers.4.eh_proj.weight", source.at(mtp + "eh_proj.weight"));
  expect("layers.4.embed.weight", CutOut(source.at(mtp + "embed_tokens.weight"), 500, 500, 0, 192));
  expect("layers.4.shared_head.head.weight",
         CutOut(source.at(mtp + "shared_head.head.weight"), 500, 500, 0, 192));
  expect("layers.4.ffn.experts.16.w1.weight", source.at(mtp + "mlp.experts.16.gate_proj.weight"));
  EXPECT_EQ(held.count("layers.4.ffn.experts.15.w1.weight"), 0U);
}

TEST_F(ReshardDeepseekTest, RefusesOptionsThatTheScriptHasNot) {
  MakeSample(SamplePreset::kTinyTp, 5, model());
  const std::pair<const char*, std::function<void(ReshardOptions&)>> changes[] = {
      {"--ep 4", [](ReshardOptions& o) { o.parallel.ep = 4; }},
      {"--dp 2", [](ReshardOptions& o) { o.parallel.dp = 2; }},
      {"--pp 2", [](ReshardOptions& o) { o.parallel.pp = 2; }},
      {"--dense-tp 1", [](ReshardOptions& o) { o.parallel.dense_tp = 1; }},
      {"--shared-expert-tp 1", [](ReshardOptions& o) { o.parallel.shared_expert_tp = 1; }},
      {"--embed-tp 1", [](ReshardOptions& o) { o.parallel.embed_tp = 1; }},
      {"--redundant-experts 2", [](ReshardOptions& o) { o.parallel.redundant_experts = 2; }},
      {"--ep-placement",
       [](ReshardOptions& o) { o.placement.kind = convert::PlacementKind::kRoundRobin; }},
      {"--expert-load", [](ReshardOptions& o) { o.placement.expert_load = "load.json"; }},
      {"--grouping component",
       [](ReshardOptions& o) { o.grouping = convert::RankGrouping::kComponent; }},
      {"--on-misaligned",
       [](ReshardOptions& o) { o.on_misaligned = convert::OnMisaligned::kBF16; }},
  };
  for (const auto& [option, change] : changes) {
    ReshardOptions options = Options(2);
    change(options);
    const Error error = Refusal(options);
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << option;
    EXPECT_THAT(error.message(), HasSubstr(option));
  }
  ReshardOptions options = Options(2);
  options.parallel.ep = 2;
  EXPECT_NO_THROW(RunReshard(model(), out(), options));
}

TEST_F(ReshardDeepseekTest, RefusesToCutThroughABlock) {
  MakeSample(SamplePreset::kTiny, 5, model());  // two heads of 128 rows, an MLP of 320
  const Error error = Refusal(Options(2));
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("128"), HasSubstr("model.layers.0.mlp")));
}

}  // namespace
}  // namespace dsv3::testing
