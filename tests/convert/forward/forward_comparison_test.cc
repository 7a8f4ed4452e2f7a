#include <filesystem>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/progress.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/convert/forward/forward_comparisons.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ForwardComparisonReport;
using convert::ForwardRequest;
using convert::ModuleDifference;
using convert::TensorRelation;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kHeads[] = "model.layers.1.self_attn.q_b_proj.weight";
constexpr char kNorm[] = "model.layers.2.post_attention_layernorm.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kOut[] = "model.layers.3.self_attn.o_proj.weight";

TEST_F(ForwardComparisonTest, EveryFormOfAModelIsTheSame) {
  convert::TrainToInferOptions split;
  split.mla = convert::MlaForm::kSplit;
  Convert(Bf16(), dir_ / "split", split);
  Conversion(Bf16(), dir_ / "fused", convert::LayoutConversion({.to = "transformers-fused"})).Run();
  for (const fs::path& form : {Fp8(), dir_ / "split", dir_ / "fused"}) {
    for (const bool turned : {false, true}) {
      for (const auto attention :
           {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
        ForwardRequest request = Request(form);
        request.attention = attention;
        if (turned) std::swap(request.input, request.other);
        const ForwardComparisonReport report = Compare(request);
        EXPECT_THAT(Differences(report), IsEmpty()) << form;
        EXPECT_EQ(report.logits.nmse, 0);
        EXPECT_EQ(report.logits.cosine, 1);
        EXPECT_EQ(report.logits.kl_max, 0);
        EXPECT_EQ(report.logits.top1_agreement, 1);
        EXPECT_THAT(report.layers, SizeIs(kMainLayers));
        EXPECT_THAT(convert::JudgeComparison(report, {}), IsEmpty());
      }
    }
  }
}

TEST_F(ForwardComparisonTest, NamesEachFaultAndNothingBehindIt) {
  const std::vector<std::tuple<std::string, Change, std::string>> faults = {
      {kEmbedding, Disturb, "values"}, {kHeads, SwapHeads, "rows-permuted"},
      {kNorm, Scale, "scaled"},        {kOut, ZeroRow, "zeroed"},
      {kHead, Scale, "scaled"},
  };
  for (const auto& [tensor, change, relation] : faults) {
    const fs::path other = Changed("one", {{tensor, change}});
    for (const auto attention :
         {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
      ForwardRequest request = Request(other);
      request.attention = attention;
      const ForwardComparisonReport report = Compare(request);
      ASSERT_THAT(Differences(report), ElementsAre(tensor + " " + relation));
      const ModuleDifference& difference = report.differences.front();
      EXPECT_EQ(difference.module + ".weight", tensor);
      EXPECT_GT(*difference.nmse, 1e-6);
      EXPECT_LT(*difference.cosine, 1 + 1e-12);
      EXPECT_EQ(difference.factor.has_value(), relation == "scaled");
      // BF16 rounds the values of a norm, which are all near 1, in one direction.
      EXPECT_NEAR(difference.factor.value_or(1.01), 1.01, 1.0 / 256);
      EXPECT_GT(report.logits.nmse, 1e-10);
      EXPECT_THAT(convert::JudgeComparison(report, {}), SizeIs(1));
    }
    fs::remove_all(other);
  }
}

TEST_F(ForwardComparisonTest, NamesThreeFaultsInTheOrderOfExecution) {
  const fs::path other = Changed("three", {{kOut, ZeroRow}, {kHeads, SwapHeads}, {kNorm, Scale}});
  const ForwardComparisonReport report = Compare(other);
  EXPECT_THAT(Differences(report),
              ElementsAre(std::string(kHeads) + " rows-permuted", std::string(kNorm) + " scaled",
                          std::string(kOut) + " zeroed"));
  EXPECT_EQ(report.layers[0].nmse, 0);
  EXPECT_GT(report.layers[1].nmse, 0);
}

TEST_F(ForwardComparisonTest, NamesAnExpertWhereverItLies) {
  Conversion(Bf16(), dir_ / "fused", convert::LayoutConversion({.to = "transformers-fused"})).Run();
  ForwardRequest routed = Request(dir_ / "fused");
  routed.routing = true;
  convert::ProgressSink progress;
  const auto run = convert::RunForward(routed, formats::PosixFileSystem(), progress, {});
  const convert::LayerRouting& layer = run.routing.back();
  const std::string expert = "model.layers." + std::to_string(layer.layer) + ".mlp.experts." +
                             std::to_string(layer.experts.front().front());
  const fs::path other = Changed("expert", {{expert + ".up_proj.weight", Scale}});
  ForwardRequest request = Request(other);
  request.input = dir_ / "fused";
  const ForwardComparisonReport report = Compare(request);
  ASSERT_THAT(report.differences, SizeIs(1));
  EXPECT_EQ(report.differences[0].module, expert + ".up_proj");
  EXPECT_EQ(report.differences[0].relation, TensorRelation::kScaled);
  EXPECT_THAT(report.differences[0].tensor, ::testing::EndsWith("mlp.experts.gate_up_proj"));
}

TEST_F(ForwardComparisonTest, NamesFieldsOfTheConfigWhereTheyActFirst) {
  const std::vector<std::tuple<const char*, nlohmann::json, std::string>> fields = {
      {"rope_theta", 20000.0, "model.layers.0.self_attn config"},
      {"rms_norm_eps", 0.01, "model.layers.0.input_layernorm config"},
      {"routed_scaling_factor", 1.25, "model.layers.1.mlp.gate config"},
      {"rope_interleave", false, "model.layers.0.self_attn config"},
  };
  for (const auto& [field, value, expected] : fields) {
    const fs::path other = Changed("config", {});
    SetConfig(other, field, value);
    const ForwardComparisonReport report = Compare(other);
    ASSERT_THAT(Differences(report), ElementsAre(expected)) << field;
    EXPECT_THAT(report.differences[0].config, ElementsAre(field));
    EXPECT_GT(*report.differences[0].nmse, 1e-10);
    fs::remove_all(other);
  }
}

TEST_F(ForwardComparisonTest, ReportsDoNotDependOnThreadsAndMemory) {
  ForwardRequest request = Request(Changed("two", {{kHeads, Disturb}, {kHead, Scale}}));
  const ForwardComparisonReport expected = Compare(request);
  request.threads = 3;
  request.memory_bytes = 1;
  const ForwardComparisonReport other = Compare(request);
  EXPECT_EQ(other.logits.nmse, expected.logits.nmse);
  EXPECT_EQ(other.logits.kl_mean, expected.logits.kl_mean);
  ASSERT_THAT(other.differences, SizeIs(2));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(other.differences[i].nmse, expected.differences[i].nmse);
    EXPECT_EQ(other.differences[i].cosine, expected.differences[i].cosine);
    EXPECT_EQ(other.differences[i].factor, expected.differences[i].factor);
  }
}

TEST_F(ForwardComparisonTest, ComparesMtpLogitsAndGeneratedTokens) {
  ForwardRequest request = Request(Fp8());
  request.mtp_logits = dir_ / "mtp.npy";
  request.generate = 4;
  const ForwardComparisonReport same = Compare(request);
  ASSERT_TRUE(same.mtp_logits && same.generated);
  EXPECT_EQ(same.mtp_logits->nmse, 0);
  EXPECT_EQ(same.generated->agreement, 1);
  EXPECT_FALSE(same.generated->first);
  EXPECT_THAT(convert::JudgeComparison(same, {}), IsEmpty());

  // A fault of the MTP layer alone, then one of the main model, which acts on both.
  const std::string mtp = std::string(kMtpLayer) + "self_attn.o_proj.weight";
  for (const std::string& tensor : {mtp, std::string(kHeads)}) {
    const fs::path other = Changed("mtp", {{tensor, SwapHeads}});
    request.other = other;
    const ForwardComparisonReport report = Compare(request);
    EXPECT_THAT(Differences(report), ElementsAre(tensor + " rows-permuted"));
    EXPECT_EQ(report.logits.nmse > 1e-10, tensor != mtp);
    // What OTHER gives alone.
    convert::ProgressSink progress;
    ForwardRequest alone = request;
    alone.input = other;
    alone.other.clear();
    alone.mtp_logits = dir_ / "alone.npy";
    const auto run = convert::RunForward(alone, formats::PosixFileSystem(), progress, {});
    EXPECT_EQ(report.generated->tokens, run.generated);
    const std::vector<float> a = Array("mtp.npy");
    const std::vector<float> b = Array("alone.npy");
    convert::ErrorSums sums;
    for (std::size_t i = 0; i < a.size(); ++i) sums.Add(a[i], b[i]);
    EXPECT_NEAR(report.mtp_logits->nmse / sums.Nmse(), 1, 1e-9);
    fs::remove_all(other);
  }
}

TEST_F(ForwardComparisonTest, NamesTheFirstGeneratedTokenThatDiffers) {
  const auto found =
      convert::CompareGenerated({{1, 2, 3, 4}, {5, 6, 7, 8}}, {{1, 2, 9, 4}, {5, 0, 7, 0}});
  ASSERT_TRUE(found.first);
  EXPECT_EQ(found.first->sequence, 1);
  EXPECT_EQ(found.first->position, 1);
  EXPECT_EQ(found.first->token, 6);
  EXPECT_EQ(found.first->other_token, 0);
  EXPECT_EQ(found.agreement, 0.625);
  ForwardComparisonReport report;
  report.generated = found;
  const formats::Findings findings = convert::JudgeComparison(report, {});
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].message, "generated token 2 of sequence 2 is 6 of MODEL and 0 of OTHER");
  EXPECT_EQ(convert::JudgeComparison(report, {.max_kl = 1})[0].severity,
            formats::Severity::kWarning);
}

TEST_F(ForwardComparisonTest, ReplayedRoutingDiffersNowhere) {
  ForwardRequest request =
      Request(Changed("router", {{"model.layers.1.mlp.gate.weight", Disturb}}));
  const ForwardComparisonReport free = Compare(request);
  EXPECT_GT(free.differing, 0);
  EXPECT_GT(free.choices, free.differing);
  request.replay_routing = true;
  const ForwardComparisonReport replayed = Compare(request);
  EXPECT_EQ(replayed.differing, 0);
  EXPECT_EQ(Differences(replayed), Differences(free));
}

TEST_F(ForwardComparisonTest, LimitsAloneDecide) {
  ForwardRequest request = Request(Changed("near", {{kHead, Scale}}));
  request.measure_bf16 = true;
  const ForwardComparisonReport report = Compare(request);
  ASSERT_TRUE(report.bf16_nmse);
  EXPECT_GT(*report.bf16_nmse, 1e-8);
  const auto errors = [&](const convert::ForwardLimits& limits) {
    std::vector<std::string> kinds;
    for (const formats::Finding& finding : convert::JudgeComparison(report, limits)) {
      if (finding.severity == formats::Severity::kError) kinds.push_back(finding.kind);
    }
    return kinds;
  };
  EXPECT_THAT(errors({}), ElementsAre("forward-difference"));
  EXPECT_THAT(errors({.max_nmse = 1e-3, .max_kl = 1, .min_cosine = 0.9, .min_top1 = 0.5}),
              IsEmpty());
  EXPECT_THAT(errors({.max_nmse = 1e-9}), ElementsAre("forward-limit"));
  EXPECT_THAT(errors({.max_kl = 0}), ElementsAre("forward-limit"));
  EXPECT_THAT(errors({.min_cosine = 1.5}), ElementsAre("forward-limit"));
  EXPECT_THAT(errors({.min_top1 = 1.5}), ElementsAre("forward-limit"));
}

TEST_F(ForwardComparisonTest, RefusesModelsThatCannotBeCompared) {
  const fs::path other = Changed("nan", {{kOut, [](std::vector<float>& values, std::size_t) {
                                            values[5] = std::numeric_limits<float>::quiet_NaN();
                                          }}});
  const Error nan = ErrorOf([&] { Compare(other); });
  EXPECT_EQ(nan.code(), ErrorCode::kBadInput);
  EXPECT_THAT(nan.message(), HasSubstr("nan/"));
  EXPECT_EQ(nan.place().tensor, kOut);

  Tensors tensors = ReadCheckpoint(Bf16());
  std::erase_if(tensors, [](const auto& one) { return one.first.starts_with("model.layers.3."); });
  for (auto it = tensors.begin(); it != tensors.end();) {
    if (!it->first.starts_with(kMtpLayer)) {
      ++it;
      continue;
    }
    auto node = tensors.extract(it++);
    node.key().replace(0, std::string(kMtpLayer).size(), "model.layers.3.");
    tensors.insert(std::move(node));
  }
  WriteTensors(tensors, Bf16(), dir_ / "short");
  SetConfig(dir_ / "short", "num_hidden_layers", 3);
  const Error error = ErrorOf([&] { Compare(dir_ / "short"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("num_hidden_layers is 4 in MODEL and 3 in OTHER"));
}

}  // namespace
}  // namespace dsv3::testing
