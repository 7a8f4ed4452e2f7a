// What compare and numeric say of GGUF files.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/to_gguf.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "quant/codec.h"
#include "tests/convert/recipes/train_to_infer_test.h"
#include "tests/convert/support/value_bytes.h"
#include "tests/formats/support/gguf_maker.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ComparedTensor;
using convert::CompareReport;
using convert::Comparison;
using convert::NumericReport;
using convert::SamplePreset;
using formats::GgufType;
using formats::Severity;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class GgufValuesTest : public TrainToInferTest {
 protected:
  void ToGguf(const fs::path& input, const fs::path& output, GgufType type) {
    Conversion(input, output, convert::ToGgufConversion({.type = type, .no_tokenizer = true}))
        .Run();
  }

  static CompareReport Compare(const fs::path& a, const fs::path& b, unsigned threads = 2) {
    convert::CompareRequest request;
    request.a = a;
    request.b = b;
    request.threads = threads;
    convert::ProgressSink progress;
    const convert::StopToken stop;
    return CompareCheckpoints(request, progress, stop);
  }
  static NumericReport Numeric(const fs::path& input) {
    convert::NumericRequest request;
    request.input = input;
    convert::ProgressSink progress;
    const convert::StopToken stop;
    return VerifyNumeric(request, progress, stop);
  }

  static const ComparedTensor& Find(const CompareReport& report, std::string_view name) {
    const auto found = std::find_if(report.tensors.begin(), report.tensors.end(),
                                    [&](const auto& t) { return t.name == name; });
    if (found == report.tensors.end()) throw std::out_of_range(std::string(name));
    return *found;
  }

  // Replaces bytes of a tensor in a GGUF file.
  static void Spoil(const fs::path& path, const std::string& tensor, std::uint64_t at,
                    const std::string& bytes) {
    std::string file = ReadFile(path);
    const formats::GgufHeader header = formats::ReadGgufHeader(path, "a");
    for (const formats::GgufTensor& each : header.tensors) {
      if (each.name == tensor) {
        file.replace(static_cast<std::size_t>(header.data_offset + each.offset + at), bytes.size(),
                     bytes);
      }
    }
    WriteFile(path, file);
  }
};

TEST_F(GgufValuesTest, ABf16ModelAndItsFileAreEqual) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kBF16);
  for (const bool swapped : {false, true}) {
    const CompareReport report =
        swapped ? Compare(dir_ / "m.gguf", in) : Compare(in, dir_ / "m.gguf");
    EXPECT_TRUE(report.verification.Passes(false));
    // Matrices in every byte, norms and the router in F32; what is left is the MTP layer.
    EXPECT_GT(report.counts.identical_bytes, 50U);
    EXPECT_GT(report.counts.identical_values, 10U);
    EXPECT_EQ(report.counts.different, 0U);
    EXPECT_EQ(report.counts.within_tolerance, 0U);
    EXPECT_EQ(swapped ? report.counts.only_in_a : report.counts.only_in_b, 0U);
    const std::uint64_t left = swapped ? report.counts.only_in_b : report.counts.only_in_a;
    ASSERT_EQ(report.verification.findings.size(), 1U);
    const formats::Finding& finding = report.verification.findings[0];
    EXPECT_EQ(finding.severity, Severity::kWarning);
    EXPECT_EQ(finding.kind, "left-out");
    EXPECT_THAT(finding.message, HasSubstr(std::to_string(left) + " tensors are in " +
                                           (swapped ? "B" : "A") + " only"));
    EXPECT_THAT(finding.message, HasSubstr("8 × 'model.layers.*.mlp.experts.*.down_proj.weight'"));
    for (const ComparedTensor& tensor : report.tensors) {
      const bool alone =
          tensor.comparison == Comparison::kOnlyInA || tensor.comparison == Comparison::kOnlyInB;
      EXPECT_EQ(alone, tensor.name.starts_with(kMtpLayer)) << tensor.name;
    }
    EXPECT_EQ(Find(report, "model.layers.1.self_attn.kv_b_proj.weight").comparison,
              Comparison::kIdenticalBytes);
  }
}

TEST_F(GgufValuesTest, AnFp8ModelIsWhatWasRoundedOnce) {
  Bf16Sample();
  ToGguf(dir_ / "fp8", dir_ / "bf16.gguf", GgufType::kBF16);
  EXPECT_TRUE(Compare(dir_ / "fp8", dir_ / "bf16.gguf").verification.Passes(false));
  ToGguf(dir_ / "fp8", dir_ / "f32.gguf", GgufType::kF32);
  EXPECT_TRUE(Compare(dir_ / "fp8", dir_ / "f32.gguf").verification.Passes(false));
}

TEST_F(GgufValuesTest, ARoundedFileDiffersByItsRounding) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kQ8_0);
  const CompareReport report = Compare(in, dir_ / "m.gguf");
  EXPECT_FALSE(report.verification.Passes(false));
  EXPECT_GT(report.counts.different, 50U);
  const ComparedTensor& tensor = Find(report, "model.layers.0.self_attn.o_proj.weight");
  EXPECT_EQ(tensor.comparison, Comparison::kDifferent);
  EXPECT_EQ(tensor.dtype_a, "BF16");
  EXPECT_EQ(tensor.dtype_b, "Q8_0");
  EXPECT_EQ(tensor.file_b, "m.gguf");
  // Half a step of 1/127 of a block's largest value.
  EXPECT_GT(tensor.statistics.relative, 1e-4);
  EXPECT_LT(tensor.statistics.relative, 1e-2);
  EXPECT_EQ(Find(report, "model.layers.0.input_layernorm.weight").comparison,
            Comparison::kIdenticalValues);
  // Neither depends on threads.
  EXPECT_EQ(Find(Compare(in, dir_ / "m.gguf", 1), tensor.name).statistics.rmse,
            tensor.statistics.rmse);
}

TEST_F(GgufValuesTest, OneValueThatDiffersIsFound) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kBF16);
  // The third expert's first value is 2.
  const formats::GgufHeader header = formats::ReadGgufHeader(dir_ / "m.gguf", "a");
  const auto stack = std::find_if(header.tensors.begin(), header.tensors.end(), [](const auto& t) {
    return t.name == "blk.2.ffn_up_exps.weight";
  });
  ASSERT_NE(stack, header.tensors.end());
  Spoil(dir_ / "m.gguf", stack->name, 2 * stack->bytes / stack->shape[0], BF16Bytes({2}));
  const CompareReport report = Compare(in, dir_ / "m.gguf");
  EXPECT_EQ(report.counts.different, 1U);
  const ComparedTensor& tensor = Find(report, "model.layers.2.mlp.experts.2.up_proj.weight");
  EXPECT_EQ(tensor.statistics.differing, 1U);
  EXPECT_EQ(tensor.statistics.first_element, 0U);
  EXPECT_EQ(tensor.statistics.first_b, 2);
}

TEST_F(GgufValuesTest, TensorsThatAFileMustHaveAreMissed) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kBF16);
  // The norm of another block: the model's is in A alone, and B has one that A lacks.
  std::string file = ReadFile(dir_ / "m.gguf");
  const std::size_t at = file.find("blk.1.attn_norm.weight");
  file.replace(at, 6, "blk.9.");
  WriteFile(dir_ / "m.gguf", file);
  const CompareReport report = Compare(in, dir_ / "m.gguf");
  EXPECT_FALSE(report.verification.Passes(false));
  EXPECT_EQ(Find(report, "model.layers.1.input_layernorm.weight").comparison, Comparison::kOnlyInA);
  EXPECT_EQ(Find(report, "model.layers.9.input_layernorm.weight").comparison, Comparison::kOnlyInB);
  // Now the file has a tensor of an MTP layer, so all of them are missed.
  EXPECT_EQ(std::count_if(report.verification.findings.begin(), report.verification.findings.end(),
                          [](const auto& f) { return f.kind == "left-out"; }),
            0);
}

TEST_F(GgufValuesTest, CodesUnderOtherNamesAndAPrefixAreCompared) {
  for (const SamplePreset preset : {SamplePreset::kKimiInt4, SamplePreset::kKimiK25}) {
    const fs::path dir = dir_ / std::to_string(static_cast<int>(preset));
    MakeSample(preset, 1, dir / "in");
    ToGguf(dir / "in", dir / "m.gguf", GgufType::kBF16);
    const CompareReport report = Compare(dir / "in", dir / "m.gguf");
    for (const formats::Finding& finding : report.verification.findings) {
      EXPECT_EQ(finding.kind, "left-out") << finding.message;
    }
    EXPECT_GT(report.counts.identical_bytes + report.counts.identical_values, 50U);
    EXPECT_EQ(report.counts.only_in_a != 0, preset == SamplePreset::kKimiK25);
  }
}

// Indexers, MTP layers that stay, and V4's own names with codes that stay as they are.
TEST_F(GgufValuesTest, RelativesAreComparedUnderTheirNames) {
  for (const SamplePreset preset : {SamplePreset::kV32, SamplePreset::kGlm5, SamplePreset::kV4}) {
    SCOPED_TRACE(static_cast<int>(preset));
    const fs::path dir = dir_ / std::to_string(static_cast<int>(preset));
    MakeSample(preset, 1, dir / "in");
    ToGguf(dir / "in", dir / "m.gguf", GgufType::kBF16);
    const CompareReport report = Compare(dir / "in", dir / "m.gguf");
    for (const formats::Finding& finding : report.verification.findings) {
      EXPECT_EQ(finding.kind, "left-out") << finding.message;
    }
    EXPECT_GT(report.counts.identical_bytes + report.counts.identical_values, 50U);
    EXPECT_EQ(report.counts.only_in_b, 0U);
    EXPECT_EQ(report.counts.only_in_a != 0, preset == SamplePreset::kV4);
    EXPECT_TRUE(Numeric(dir / "m.gguf").verification.Passes(false));
  }
}

TEST_F(GgufValuesTest, ReportsSayTheTypesOfTheFiles) {
  Bf16Sample();
  ToGguf(dir_ / "fp8", dir_ / "a.gguf", GgufType::kQ8_0);
  ToGguf(dir_ / "fp8", dir_ / "b.gguf", GgufType::kF32);
  const CompareReport report = Compare(dir_ / "a.gguf", dir_ / "b.gguf");
  const ComparedTensor& matrix = Find(report, "model.layers.1.self_attn.q_a_proj.weight");
  EXPECT_EQ(matrix.dtype_a, "Q8_0");
  EXPECT_EQ(matrix.dtype_b, "F32");
  // 80 columns, which blocks do not fill.
  EXPECT_EQ(Find(report, "model.layers.1.mlp.experts.0.down_proj.weight").dtype_a, "F16");
  for (const formats::Finding& finding : Numeric(dir_ / "a.gguf").verification.findings) {
    ADD_FAILURE() << finding.message;
  }
  // Blocks that hold equal values are not said to be equal bytes.
  const CompareReport same = Compare(dir_ / "a.gguf", dir_ / "a.gguf");
  EXPECT_EQ(Find(same, matrix.name).comparison, Comparison::kIdenticalValues);
  EXPECT_EQ(Find(same, "model.norm.weight").comparison, Comparison::kIdenticalBytes);
  EXPECT_EQ(same.counts.different, 0U);
}

TEST_F(GgufValuesTest, KeysAndValuesMayHaveTwoTypes) {
  GgufMaker()
      .Add("blk.0.attn_k_b.weight", GgufType::kF16, {2, 32, 16})
      .Add("blk.0.attn_v_b.weight", GgufType::kQ8_0, {2, 8, 32})
      .Add("blk.1.attn_k_b.weight", GgufType::kF16, {2, 32, 16})
      .Add("blk.1.attn_v_b.weight", GgufType::kF16, {2, 8, 32})
      .Write(dir_ / "m.gguf");
  const NumericReport report = Numeric(dir_ / "m.gguf");
  ASSERT_EQ(report.tensors.size(), 2U);
  EXPECT_EQ(report.tensors[0].dtype, "F16 and Q8_0");
  EXPECT_EQ(report.tensors[1].dtype, "F16");
}

TEST_F(GgufValuesTest, KeysThatAreNotTheConfigsAreSaid) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kBF16);
  const auto difference = [&] {
    std::string message;
    const CompareReport report = Compare(in, dir_ / "m.gguf");
    EXPECT_TRUE(report.verification.Passes(false));
    for (const formats::Finding& finding : report.verification.findings) {
      if (finding.kind == "different-keys") message = finding.message;
    }
    return message;
  };
  EXPECT_EQ(difference(), "");
  const std::string config = ReadFile(in / "config.json");
  SetConfig(in, "rope_theta", 50000.0);
  EXPECT_THAT(difference(), HasSubstr("m.gguf: a key is not what config.json says (in brackets), "
                                      "and llama.cpp computes by the keys: "
                                      "deepseek2.rope.freq_base is 10000 (50000)"));
  SetConfig(in, "num_experts_per_tok", 3);
  SetConfig(in, "norm_topk_prob", false);
  EXPECT_THAT(difference(), HasSubstr("3 keys are not"));
  EXPECT_THAT(difference(), HasSubstr("deepseek2.expert_used_count is 2 (3)"));
  EXPECT_THAT(difference(), HasSubstr("deepseek2.expert_weights_norm is true (absent)"));
  WriteFile(in / "config.json", config);
  SetConfig(in, "rope_interleave", false);
  EXPECT_THAT(difference(), HasSubstr("its keys were not compared with config.json: "));
  WriteFile(in / "config.json", config);
  // The keys of another program, in other kinds and with one missing.
  std::string file = ReadFile(dir_ / "m.gguf");
  const std::size_t at = file.find("deepseek2.expert_weights_norm");
  ASSERT_NE(at, std::string::npos);
  file.replace(at, 9, "deepseekX");
  WriteFile(dir_ / "m.gguf", file);
  EXPECT_THAT(difference(), HasSubstr("deepseek2.expert_weights_norm is missing (true)"));
}

TEST_F(GgufValuesTest, TwoFilesAreCompared) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "a.gguf", GgufType::kBF16);
  ToGguf(in, dir_ / "b.gguf", GgufType::kF32);
  const CompareReport report = Compare(dir_ / "a.gguf", dir_ / "b.gguf");
  EXPECT_THAT(report.verification.findings, IsEmpty());
  EXPECT_GT(report.counts.identical_values, 50U);
}

TEST_F(GgufValuesTest, NumericFindsNothingInSoundFiles) {
  Bf16Sample();
  for (const GgufType type : {GgufType::kBF16, GgufType::kQ8_0, GgufType::kF16}) {
    ToGguf(dir_ / "fp8", dir_ / "m.gguf", type);
    const NumericReport report = Numeric(dir_ / "m.gguf");
    for (const formats::Finding& finding : report.verification.findings) {
      ADD_FAILURE() << finding.message;
    }
    EXPECT_THAT(report.verification.files, ::testing::ElementsAre("m.gguf"));
    EXPECT_GT(report.tensors.size(), 80U);
    fs::remove_all(dir_ / "m.gguf");
    fs::remove(dir_ / "m.gguf.manifest.json");
  }
}

TEST_F(GgufValuesTest, NumericSaysInWhichBlockAScaleIsNaN) {
  Bf16Sample();
  ToGguf(dir_ / "fp8", dir_ / "m.gguf", GgufType::kQ8_0);
  Spoil(dir_ / "m.gguf", "blk.0.attn_output.weight", 34 * 5, std::string("\x01\x7E", 2));
  const NumericReport report = Numeric(dir_ / "m.gguf");
  ASSERT_EQ(report.verification.findings.size(), 1U);
  const formats::Finding& finding = report.verification.findings[0];
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.kind, "nan");
  EXPECT_EQ(finding.file, "m.gguf");
  EXPECT_EQ(finding.tensor, "model.layers.0.self_attn.o_proj.weight");
  EXPECT_THAT(finding.message, HasSubstr("32 values are NaN"));
  EXPECT_THAT(finding.message, HasSubstr("block 5 of tensor 'blk.0.attn_output.weight' (Q8_0)"));
}

TEST_F(GgufValuesTest, NumericReadsEveryTypeThatIsDecoded) {
  // MXFP4: one block of 6 × 2, one whose scale is NaN; Q4_0: 7 × 0.5 and −8 × 0.5.
  std::string mxfp4 = "\x80" + std::string(16, '\x77');
  mxfp4 += "\xFF" + std::string(16, '\x11');
  const std::string q4_0 = std::string("\x00\x38", 2) + std::string(16, '\x0F');
  GgufMaker()
      .Add("blk.0.attn_q.weight", GgufType::kMxfp4, {2, 32}, mxfp4)
      .Add("other.weight", GgufType::kQ4_0, {1, 32}, q4_0)
      .Add("ids", GgufType::kI32, {4})
      .Write(dir_ / "m.gguf");
  const NumericReport report = Numeric(dir_ / "m.gguf");
  ASSERT_EQ(report.tensors.size(), 3U);
  EXPECT_EQ(report.tensors[0].name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(report.tensors[0].absmax, 12);
  EXPECT_EQ(report.tensors[0].nans, 32U);
  EXPECT_EQ(report.tensors[1].absmax, 4);
  EXPECT_NEAR(report.tensors[1].rms, std::sqrt((3.5 * 3.5 + 16) / 2), 1e-4);
  EXPECT_EQ(report.tensors[0].dtype, "MXFP4");
  EXPECT_EQ(report.tensors[1].dtype, "Q4_0");
  EXPECT_EQ(report.tensors[2].dtype, "I32");
  const auto nan =
      std::find_if(report.verification.findings.begin(), report.verification.findings.end(),
                   [](const auto& finding) { return finding.kind == "nan"; });
  ASSERT_NE(nan, report.verification.findings.end());
  EXPECT_THAT(nan->message,
              HasSubstr("the first at [1, 0]: block 1 of tensor 'blk.0.attn_q.weight' (MXFP4)"));
}

TEST_F(GgufValuesTest, WhatCannotBeReadEndsBoth) {
  const fs::path in = Bf16Sample();
  ToGguf(in, dir_ / "m.gguf", GgufType::kBF16);
  const std::string whole = ReadFile(dir_ / "m.gguf");
  WriteFile(dir_ / "m.gguf", whole.substr(0, whole.size() - 100));
  for (const Error& error : {ErrorOf([&] { Numeric(dir_ / "m.gguf"); }),
                             ErrorOf([&] { Compare(in, dir_ / "m.gguf"); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(),
                HasSubstr("m.gguf: tensor 'output.weight': the file is truncated"));
  }
}

}  // namespace
}  // namespace dsv3::testing
