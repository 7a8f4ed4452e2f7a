#include "convert/forward/forward.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/progress.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/train_to_infer.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/convert/forward/forward_models.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ForwardReport;
using convert::ForwardRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ForwardTest : public ForwardModelsTest {
 protected:
  static ForwardRequest Request(std::vector<std::vector<std::uint32_t>> sequences = {kTokens}) {
    ForwardRequest request;
    request.input = Fp8();
    request.sequences = std::move(sequences);
    return request;
  }
  static ForwardReport Run(const ForwardRequest& request) {
    convert::ProgressSink progress;
    return convert::RunForward(request, formats::PosixFileSystem(), progress, {});
  }
  // The floats of the array that a request writes.
  std::vector<float> Output(ForwardRequest request, fs::path ForwardRequest::*output) const {
    request.*output = dir_ / "out.npy";
    Run(request);
    return Array("out.npy");
  }
  std::vector<float> Logits(const ForwardRequest& request) const {
    return Output(request, &ForwardRequest::logits);
  }
  // Some rows of logits of `rows` rows.
  static std::vector<float> RowsOf(const std::vector<float>& logits, std::size_t rows,
                                   std::size_t begin, std::size_t end) {
    const std::size_t width = logits.size() / rows;
    return {logits.begin() + static_cast<std::ptrdiff_t>(begin * width),
            logits.begin() + static_cast<std::ptrdiff_t>(end * width)};
  }

  static const std::vector<std::uint32_t> kTokens;
};

const std::vector<std::uint32_t> ForwardTest::kTokens = {3, 141, 59, 26, 5, 35, 89, 79, 32, 38};

TEST_F(ForwardTest, GivesTheSameBytesWhateverTheThreadsAndTheMemory) {
  const std::vector<float> expected = Logits(Request());
  for (const unsigned threads : {1U, 3U}) {
    for (const std::uint64_t memory : {std::uint64_t{1}, std::uint64_t{1} << 30}) {
      ForwardRequest request = Request();
      request.threads = threads;
      request.memory_bytes = memory;
      EXPECT_TRUE(Logits(request) == expected) << threads << " threads, " << memory << " bytes";
    }
  }
}

TEST_F(ForwardTest, ATokenDependsOnThoseBeforeItAlone) {
  for (const convert::AttentionForm form :
       {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
    const auto logits = [&](std::vector<std::vector<std::uint32_t>> sequences) {
      ForwardRequest request = Request(std::move(sequences));
      request.attention = form;
      return Logits(request);
    };
    const std::vector<float> whole = logits({kTokens});
    const std::vector<std::uint32_t> prefix(kTokens.begin(), kTokens.begin() + 4);
    EXPECT_TRUE(logits({prefix}) == RowsOf(whole, 10, 0, 4));
    EXPECT_TRUE(RowsOf(logits({{1, 2}, kTokens, {7}}), 13, 2, 12) == whole);
  }
}

TEST_F(ForwardTest, GeneratesWhatTheLogitsOfThePromptSay) {
  ForwardRequest request = Request({kTokens, {17, 4}});
  request.generate = 4;
  const ForwardReport generated = Run(request);
  ASSERT_THAT(generated.generated, ElementsAre(SizeIs(4), SizeIs(4)));
  for (std::size_t s = 0; s < 2; ++s) {
    std::vector<std::uint32_t> tokens = request.sequences[s];
    for (const std::uint32_t next : generated.generated[s]) {
      ForwardRequest prompt = Request({tokens});
      prompt.top = 1;
      EXPECT_EQ(Run(prompt).top.at(0).at(0).token, next);
      tokens.push_back(next);
    }
  }
}

TEST_F(ForwardTest, GeneratesTheSameWhetherKeysAndValuesAreKept) {
  ForwardRequest request = Request({kTokens, {17, 4}});
  request.generate = 12;
  const auto expected = Run(request).generated;
  // Of no layer, and of some: half of the memory is for them.
  for (const std::uint64_t memory : {std::uint64_t{1}, std::uint64_t{80} << 10}) {
    request.memory_bytes = memory;
    EXPECT_EQ(Run(request).generated, expected) << memory;
  }
}

// Sequences that run together share one read of each weight, also in each generated token.
TEST_F(ForwardTest, SequencesShareOneReadOfEachWeight) {
  const auto read = [](std::size_t sequences, std::uint64_t generate, std::uint64_t memory) {
    ForwardRequest request =
        Request(std::vector<std::vector<std::uint32_t>>(sequences, {5, 141, 7}));
    request.generate = generate;
    request.memory_bytes = memory;
    return Run(request).bytes_read;
  };
  // Equal tokens meet equal experts; an embedding row of each is read, of 256 BF16 values.
  EXPECT_EQ(read(3, 0, 0), read(1, 0, 0) + 6 * 512);
  const std::uint64_t little = std::uint64_t{1} << 14;
  EXPECT_EQ(read(3, 4, little), read(1, 4, little) + (6 + 2 * 3) * 512);
}

// The second token that is generated after the first reads all weights but experts that it alone
// meets for the last time.
TEST_F(ForwardTest, ReadsWeightsThatAreKeptNoMore) {
  ForwardRequest request = Request({kTokens});
  const auto read = [&](std::uint64_t generate, std::uint64_t memory) {
    request.generate = generate;
    request.memory_bytes = memory;
    const ForwardReport report = Run(request);
    return std::pair(report.bytes_read, report.generated);
  };
  const std::uint64_t little = std::uint64_t{1} << 14;
  const auto [with_little, expected] = read(12, little);
  const auto [with_default, generated] = read(12, 0);
  EXPECT_EQ(generated, expected);
  // Eleven tokens are run after the prompt: two read everything.
  const std::uint64_t prompt = read(1, 0).first;
  const std::uint64_t token = read(2, 0).first - prompt;
  EXPECT_GT(with_little, prompt + 9 * token);
  EXPECT_LT(with_default, prompt + 4 * token);
}

TEST_F(ForwardTest, AddsTokensUntilEveryExpertWasMet) {
  // Without biases, which keep one expert of the sample from every token.
  auto tensors = ReadCheckpoint(Bf16());
  for (auto& [name, tensor] : tensors) {
    if (!name.ends_with("e_score_correction_bias")) continue;
    std::fill(tensor.bytes.begin(), tensor.bytes.end(), '\0');
  }
  WriteTensors(tensors, Bf16(), dir_ / "even");
  ForwardRequest request = Request({});
  request.input = dir_ / "even";
  const ForwardReport fixed = Run(request);
  EXPECT_LT(fixed.experts_read, fixed.experts);
  const std::vector<float> expected = Logits(request);
  request.auto_tokens = true;
  const ForwardReport report = Run(request);
  EXPECT_EQ(report.experts_read, report.experts);
  EXPECT_GT(report.tokens, fixed.tokens);
  EXPECT_LE(report.tokens, 4096);
  EXPECT_EQ(report.sequences, report.tokens / 64);
  // What was read by runs that were too short counts.
  EXPECT_GT(report.bytes_read, fixed.bytes_read);
  // The first ids are those of a run without the option.
  EXPECT_TRUE(RowsOf(Logits(request), report.tokens, 0, 64) == expected);
}

TEST_F(ForwardTest, ManyTokensMayLeaveAnExpertUnmet) {
  auto tensors = ReadCheckpoint(Bf16());
  const float never = -1e6F;
  std::memcpy(tensors.at("model.layers.2.mlp.gate.e_score_correction_bias").bytes.data(), &never,
              sizeof(never));
  WriteTensors(tensors, Bf16(), dir_ / "unmet");
  ForwardRequest request = Request({});
  request.input = dir_ / "unmet";
  request.auto_tokens = true;
  request.logits = dir_ / "out.npy";
  const ForwardReport report = Run(request);
  EXPECT_EQ(report.tokens, 4096);
  EXPECT_GE(report.experts - report.experts_read, 1);
  EXPECT_EQ(Array("out.npy").size() % 4096, 0);
}

TEST_F(ForwardTest, AbsorbedAttentionIsTheSameButForRounding) {
  ForwardRequest request = Request();
  const std::vector<float> naive = Logits(request);
  request.attention = convert::AttentionForm::kAbsorbed;
  const std::vector<float> absorbed = Logits(request);
  EXPECT_FALSE(naive == absorbed);
  for (std::size_t i = 0; i < naive.size(); ++i) ASSERT_NEAR(naive[i], absorbed[i], 1e-4);
}

TEST_F(ForwardTest, Fp8WeightsAreThoseOfTheirBf16Form) {
  ForwardRequest request = Request();
  const std::vector<float> fp8 = Logits(request);
  request.input = Bf16();
  EXPECT_TRUE(Logits(request) == fp8);
  request.input = Fp8();
  request.weights = convert::WeightValues::kExact;
  EXPECT_FALSE(Logits(request) == fp8);
}

TEST_F(ForwardTest, RunsOtherFormsOfTheSameModel) {
  ForwardRequest request = Request();
  request.input = Bf16();
  const std::vector<float> expected = Logits(request);
  convert::TrainToInferOptions split;
  split.mla = convert::MlaForm::kSplit;
  Convert(Bf16(), dir_ / "split", split);
  Conversion(Bf16(), dir_ / "fused", convert::LayoutConversion({.to = "transformers-fused"})).Run();
  for (const char* const form : {"split", "fused"}) {
    request.input = dir_ / form;
    EXPECT_TRUE(Logits(request) == expected) << form;
  }
}

TEST_F(ForwardTest, HiddenStatesAreOfTheEmbeddingAndEveryLayer) {
  const std::vector<float> hidden = Output(Request(), &ForwardRequest::hidden);
  EXPECT_THAT(hidden, SizeIs((kMainLayers + 1) * kTokens.size() * 256));
}

TEST_F(ForwardTest, MtpLogitsHaveARowLess) {
  const std::vector<float> logits = Logits(Request());
  const std::vector<float> mtp = Output(Request(), &ForwardRequest::mtp_logits);
  EXPECT_EQ(mtp.size() / (kTokens.size() - 1), logits.size() / kTokens.size());
}

TEST_F(ForwardTest, ReadsOnlyTheExpertsThatAreMet) {
  ForwardRequest one = Request({{5}});
  one.routing = true;
  const ForwardReport report = Run(one);
  const ForwardReport all = Run(Request());
  EXPECT_LT(report.experts_read, all.experts_read);
  EXPECT_LT(report.bytes_read, all.bytes_read);
  EXPECT_EQ(report.experts, all.experts);
  ASSERT_THAT(report.routing, Not(IsEmpty()));
  std::uint64_t chosen = 0;
  for (const convert::LayerRouting& layer : report.routing) {
    chosen += layer.experts.at(0).size();
    EXPECT_GE(layer.margins.at(0), 0);
  }
  EXPECT_EQ(chosen, report.experts_read);
}

TEST_F(ForwardTest, PerplexityIsThatOfTheLogits) {
  const std::vector<float> logits = Logits(Request());
  const std::size_t steps = kTokens.size() - 1;
  double loss = 0;
  for (std::size_t i = 0; i < steps; ++i) {
    const std::vector<float> row = RowsOf(logits, kTokens.size(), i, i + 1);
    double sum = 0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit));
    loss += std::log(sum) - static_cast<double>(row[kTokens[i + 1]]);
  }
  const ForwardReport report = Run(Request());
  ASSERT_TRUE(report.perplexity);
  EXPECT_NEAR(*report.perplexity / std::exp(loss / static_cast<double>(steps)), 1, 1e-6);
}

TEST_F(ForwardTest, WithoutTokensRunsFixedOnes) {
  const ForwardReport report = Run(Request({}));
  EXPECT_EQ(report.tokens, convert::kDefaultTokens);
  ASSERT_TRUE(report.perplexity);
  EXPECT_GT(*report.perplexity, 1);
}

TEST_F(ForwardTest, NanInAWeightThatIsMetIsAnErrorAndNothingIsWritten) {
  const fs::path spoilt = dir_ / "spoilt";
  auto tensors = ReadCheckpoint(Bf16());
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  tensors.at(name).bytes[6] = '\xFF';
  tensors.at(name).bytes[7] = '\x7F';
  WriteTensors(tensors, Bf16(), spoilt);
  ForwardRequest request = Request();
  request.input = spoilt;
  request.logits = dir_ / "logits.npy";
  const Error error = ErrorOf([&] { Run(request); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr(name + "' is not finite in row 0, column 3"));
  EXPECT_EQ(error.place().tensor, name);
  EXPECT_FALSE(fs::exists(dir_ / "logits.npy"));
  EXPECT_FALSE(fs::exists(dir_ / "logits.npy.partial"));
}

TEST_F(ForwardTest, RefusesTokensAndOptionsThatTheModelCannotTake) {
  const auto expect = [&](const ForwardRequest& request, const std::string& problem) {
    const Error error = ErrorOf([&] { Run(request); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr(problem));
  };
  expect(Request({{1, 1'000'000'000}}), "token 2 of sequence 1 is 1000000000");
  expect(Request({{}}), "has no tokens");
  ForwardRequest short_one = Request({{1}});
  short_one.mtp_logits = dir_ / "mtp.npy";
  expect(short_one, "needs two tokens or more");
  convert::TrainToInferOptions drop;
  drop.mtp = convert::MtpAction::kDrop;
  Convert(Bf16(), dir_ / "drop", drop);
  ForwardRequest without = Request();
  without.input = dir_ / "drop";
  without.mtp_logits = dir_ / "mtp.npy";
  expect(without, "the model has no MTP layer");
  EXPECT_FALSE(fs::exists(dir_ / "mtp.npy"));
}

TEST_F(ForwardTest, StopsWhenAsked) {
  convert::StopToken stop;
  stop.RequestStop();
  convert::ProgressSink progress;
  const Error error =
      ErrorOf([&] { convert::RunForward(Request(), formats::PosixFileSystem(), progress, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace dsv3::testing
