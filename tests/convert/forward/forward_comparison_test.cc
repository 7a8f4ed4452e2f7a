#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/progress.h"
#include "convert/forward/comparison_verdict.h"
#include "convert/forward/forward.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "quant/codec.h"
#include "tests/convert/forward/forward_models.h"

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

using Tensors = std::map<std::string, HeldTensor>;

// Changes the values of a BF16 or F32 tensor.
using Change = std::function<void(std::vector<float>&, std::size_t cols)>;

void Edit(Tensors& tensors, const std::string& name, const Change& change) {
  HeldTensor& tensor = tensors.at(name);
  const bool is_float = tensor.dtype == formats::Dtype::kF32;
  std::vector<float> values(tensor.bytes.size() / (is_float ? 4 : 2));
  std::vector<std::uint16_t> codes(values.size());
  if (is_float) {
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  } else {
    std::memcpy(codes.data(), tensor.bytes.data(), tensor.bytes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) values[i] = quant::DecodeBF16(codes[i]);
  }
  change(values, tensor.shape.back());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = quant::EncodeBF16(values[i]);
  std::memcpy(tensor.bytes.data(),
              is_float ? static_cast<const void*>(values.data()) : codes.data(),
              tensor.bytes.size());
}

void Scale(std::vector<float>& values, std::size_t) {
  for (float& value : values) value *= 1.01F;
}
void SwapHeads(std::vector<float>& values, std::size_t cols) {
  const auto half = static_cast<std::ptrdiff_t>(values.size() / cols / 2 * cols);
  std::swap_ranges(values.begin(), values.begin() + half, values.begin() + half);
}
void ZeroRow(std::vector<float>& values, std::size_t cols) {
  std::fill_n(values.begin(), cols, 0.0F);
}
void Disturb(std::vector<float>& values, std::size_t) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += i % 2 == 0 ? 0.25F : -0.5F;
}

constexpr char kHeads[] = "model.layers.1.self_attn.q_b_proj.weight";
constexpr char kNorm[] = "model.layers.2.post_attention_layernorm.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kOut[] = "model.layers.3.self_attn.o_proj.weight";

class ForwardComparisonTest : public ForwardModelsTest {
 protected:
  // A copy of the BF16 model with changed tensors.
  fs::path Changed(const char* name, const std::map<std::string, Change>& changes) {
    Tensors tensors = ReadCheckpoint(Bf16());
    for (const auto& [tensor, change] : changes) Edit(tensors, tensor, change);
    WriteTensors(tensors, Bf16(), dir_ / name);
    return dir_ / name;
  }

  static ForwardRequest Request(const fs::path& other) {
    ForwardRequest request;
    request.input = Bf16();
    request.other = other;
    request.sequences = {{3, 141, 59, 26, 5, 35, 89, 79, 32, 38}, {7, 11, 300}};
    return request;
  }
  static ForwardComparisonReport Compare(const ForwardRequest& request) {
    convert::ProgressSink progress;
    return *convert::RunForward(request, formats::PosixFileSystem(), progress, {}).comparison;
  }
  static ForwardComparisonReport Compare(const fs::path& other) { return Compare(Request(other)); }

  // "tensor relation" of each difference.
  static std::vector<std::string> Differences(const ForwardComparisonReport& report) {
    std::vector<std::string> found;
    for (const ModuleDifference& difference : report.differences) {
      found.push_back((difference.tensor.empty() ? difference.module : difference.tensor) + " " +
                      convert::RelationName(difference.relation));
    }
    return found;
  }
};

TEST_F(ForwardComparisonTest, EveryFormOfAModelIsTheSame) {
  convert::TrainToInferOptions split;
  split.mla = convert::MlaForm::kSplit;
  Convert(Bf16(), dir_ / "split", split);
  Conversion fused(Bf16(), dir_ / "fused");
  fused.convert = convert::ConvertLayout;
  fused.request.layout.to = "transformers-fused";
  fused.Run();
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
  Conversion fused(Bf16(), dir_ / "fused");
  fused.convert = convert::ConvertLayout;
  fused.request.layout.to = "transformers-fused";
  fused.Run();
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
