#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
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
#include "tests/convert/forward/forward_comparisons.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::DumpReport;
using convert::ForwardRequest;
using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kNorm[] = "model.layers.1.self_attn.kv_a_layernorm";
constexpr char kMlp[] = "model.layers.2.mlp";

class DumpComparisonTest : public ForwardComparisonTest {
 protected:
  ForwardRequest Request() const {
    ForwardRequest request;
    request.input = Bf16();
    request.sequences = {{3, 141, 59, 26, 5}, {7, 11, 300, 2, 8}};
    return request;
  }
  static convert::ForwardReport Run(const ForwardRequest& request) {
    convert::ProgressSink progress;
    return convert::RunForward(request, formats::PosixFileSystem(), progress, {});
  }
  // What this program itself gives.
  Tensors Dump(const fs::path& model = Bf16()) const {
    ForwardRequest request = Request();
    request.input = model;
    request.trace = dir_ / "trace.safetensors";
    Run(request);
    return ReadTensors(request.trace);
  }
  DumpReport Compare(const Tensors& dump) {
    WriteTensors(dump, Bf16(), dir_ / "dump");
    ForwardRequest request = Request();
    request.against = dir_ / "dump" / "model.safetensors";
    return *Run(request).against;
  }
  Error Refused(const Tensors& dump) {
    return ErrorOf([&] { Compare(dump); });
  }
  static std::vector<float> Floats(const HeldTensor& tensor) {
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
};

TEST_F(DumpComparisonTest, AnotherRunOfTheModelAgreesInEveryModule) {
  const Tensors dump = Dump();
  const DumpReport report = Compare(dump);
  EXPECT_THAT(report.modules, SizeIs(dump.size()));
  EXPECT_THAT(report.unknown, IsEmpty());
  EXPECT_EQ(report.modules.front().module, "model.embed_tokens");
  EXPECT_EQ(report.modules.back().module, "lm_head");
  for (const convert::DumpedModule& module : report.modules) EXPECT_EQ(module.nmse, 0);
  EXPECT_THAT(convert::JudgeDump(report, 0), IsEmpty());
}

// Modules run on the dump's inputs, so nothing behind a fault differs.
TEST_F(DumpComparisonTest, NamesTheModulesWithFaultsInTheOrderOfExecution) {
  const std::string down = std::string(kMlp) + ".shared_experts.down_proj";
  const fs::path other = Changed("faults", {{"lm_head.weight", Scale},
                                            {down + ".weight", SwapHeads},
                                            {kNorm + std::string(".weight"), Scale}});
  const DumpReport report = Compare(Dump(other));
  std::vector<std::string> differing;
  for (const convert::DumpedModule& module : report.modules) {
    if (module.nmse > 0) differing.push_back(module.module);
  }
  EXPECT_THAT(differing, ElementsAre(kNorm, down, "lm_head"));
  const formats::Findings findings = convert::JudgeDump(report, 1e-10);
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].kind, "forward-difference");
  EXPECT_THAT(findings[0].message, HasSubstr(std::string(kNorm) + " is the first module"));
  EXPECT_THAT(findings[0].message, HasSubstr(" is above 1e-10"));
  EXPECT_THAT(convert::JudgeDump(report, 0.01).at(0).message, HasSubstr(down));
  EXPECT_THAT(convert::JudgeDump(report, 10), IsEmpty());
}

TEST_F(DumpComparisonTest, ValuesThatAreNotFiniteDiffer) {
  Tensors dump = Dump();
  std::memset(dump.at(kMlp).bytes.data() + 8, 0xFF, 4);
  const DumpReport report = Compare(dump);
  EXPECT_THAT(convert::JudgeDump(report, 1e30).at(0).message, HasSubstr(kMlp));
  // The run goes on with its own value there.
  EXPECT_LT(report.modules.back().nmse, 1e-10);
}

TEST_F(DumpComparisonTest, TakesCoarserDtypesBatchesAndNamesThatItDoesNotKnow) {
  const Tensors all = Dump();
  Tensors dump = {{kMlp, all.at(kMlp)}, {kNorm, all.at(kNorm)}, {"visual.norm", all.at(kNorm)}};
  const std::uint64_t columns = dump.at(kMlp).shape[1];
  dump.at(kMlp).shape = {2, 5, columns};
  dump.at(kNorm).shape.insert(dump.at(kNorm).shape.begin(), 1);
  const std::vector<float> values = Floats(dump.at(kMlp));
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16}) {
    HeldTensor& tensor = dump.at(kMlp);
    tensor.dtype = dtype;
    std::vector<std::uint16_t> codes;
    for (const float value : values) {
      codes.push_back(dtype == Dtype::kBF16 ? quant::EncodeBF16(value) : quant::EncodeF16(value));
    }
    tensor.bytes.assign(reinterpret_cast<const char*>(codes.data()), codes.size() * 2);
    const DumpReport report = Compare(dump);
    EXPECT_EQ(report.dtype, dtype);
    EXPECT_THAT(report.unknown, ElementsAre("visual.norm"));
    ASSERT_THAT(report.modules, SizeIs(2));
    EXPECT_EQ(report.modules[0].nmse, 0);
    EXPECT_GT(report.modules[1].nmse, 0);
    EXPECT_EQ(report.modules[1].layer, 2);
    EXPECT_THAT(convert::JudgeDump(report, convert::DefaultMaxNmse(report.dtype)), IsEmpty());
    EXPECT_THAT(convert::JudgeDump(report, convert::DefaultMaxNmse(Dtype::kF32)), SizeIs(1));
  }
}

TEST_F(DumpComparisonTest, TakesLogitsAsAnArray) {
  ForwardRequest request = Request();
  request.logits = dir_ / "logits.npy";
  Run(request);
  request.against = std::exchange(request.logits, {});
  const DumpReport report = *Run(request).against;
  ASSERT_THAT(report.modules, SizeIs(1));
  EXPECT_EQ(report.modules[0].module, "lm_head");
  EXPECT_EQ(report.modules[0].nmse, 0);
  request.hidden = dir_ / "hidden.npy";
  Run(request);
  request.against = std::exchange(request.hidden, {});
  EXPECT_EQ(ErrorOf([&] { Run(request); }).code(), ErrorCode::kBadInput);
}

TEST_F(DumpComparisonTest, RefusesDumpsThatDoNotFit) {
  const Tensors all = Dump();
  const HeldTensor& norm = all.at(kNorm);
  const Error unknown = Refused({{"layers.0", norm}});
  EXPECT_EQ(unknown.code(), ErrorCode::kBadInput);
  EXPECT_THAT(unknown.message(), HasSubstr("names such as 'layers.0'"));
  Tensors dump = {{kNorm, norm}};
  dump.at(kNorm).shape = {5, 2 * norm.shape[1]};
  const Error shape = Refused(dump);
  EXPECT_EQ(shape.code(), ErrorCode::kBadInput);
  EXPECT_EQ(shape.place().tensor, kNorm);
  EXPECT_THAT(shape.message(), HasSubstr("run the tokens that the dump was made with"));
  dump = {{kNorm, norm}};
  dump.at(kNorm).dtype = Dtype::kI32;
  EXPECT_THAT(Refused(dump).message(), HasSubstr("is I32; write F32, BF16 or F16"));
}

}  // namespace
}  // namespace dsv3::testing
