#include "convert/model/quantized_form.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/completeness.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/verify/numeric.h"
#include "tests/convert/model/quantized_form_test.h"
#include "tests/convert/support/checkpoint_checks.h"

namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

INSTANTIATE_TEST_SUITE_P(Forms, EachFormTest, ::testing::ValuesIn(kForms),
                         [](const auto& form) { return form.param.test_name; });

TEST_P(EachFormTest, StructureNamesItAndFindsNothing) {
  const std::size_t experts = WriteWith(GetParam());
  const convert::StructureReport report = Verify();
  EXPECT_THAT(Lines(report.verification.findings), IsEmpty());
  ASSERT_EQ(report.forms.size(), 1U);
  EXPECT_THAT(report.forms[0].name, HasSubstr(GetParam().name));
  EXPECT_EQ(report.forms[0].weights, experts);
}

TEST_P(EachFormTest, CastsRefuseItByName) {
  WriteWith(GetParam());
  Conversion conversion(in(), out());
  ExpectRefused([&] { conversion.Run(); }, GetParam(), "are not converted");
  conversion.kind = convert::Bf16ToFp8Conversion();
  ExpectRefused([&] { conversion.Run(); }, GetParam(), "quantization_config would describe FP8");
}

TEST_F(QuantizedFormTest, ReadsModelOptsOwnDescription) {
  const auto form_with = [&](const std::string& description, auto add) {
    checkpoint_.side_files["hf_quant_config.json"] = description;
    ReplaceExperts(add);
    Write();
    const convert::StructureReport report = Verify();
    EXPECT_THAT(Lines(report.verification.findings), IsEmpty());
    return report.forms.size() == 1 ? report.forms[0].name : "not one form";
  };
  const auto fp8 = [](const Module& m) {
    m.Add("weight", Dtype::kF8E4M3, {m.rows, m.cols});
    m.Add("weight_scale", Dtype::kF32, {});
  };
  EXPECT_EQ(form_with(R"({"producer": {"name": "modelopt"}, "quantization":
                          {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}})",
                      fp8),
            "ModelOpt FP8");
  const auto int4 = [](const Module& m) {
    m.Add("weight", Dtype::kU8, {CeilDiv(m.rows, 2), m.cols});
    m.Add("weight_scale", Dtype::kF32, {m.rows, 1});
  };
  const TinyCheckpoint fp8_checkpoint = checkpoint_;
  checkpoint_.DropContaining("weight_scale");
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.dtype != Dtype::kF8E4M3) continue;
    tensor.dtype = Dtype::kBF16;
    tensor.bytes += tensor.bytes;
  }
  EXPECT_EQ(form_with(R"({"quantization": {"quant_algo": "W4A8_AWQ"}})", int4),
            "ModelOpt W4A8_AWQ (packed INT4, two rows a byte)");
  // What is no description is passed over.
  checkpoint_ = fp8_checkpoint;
  for (const char* const text : {"no JSON", "[]", "{}", R"({"quantization": 8})",
                                 R"({"quantization": {"quant_algo": null}})"}) {
    checkpoint_.side_files["hf_quant_config.json"] = text;
    Write();
    EXPECT_THAT(Lines(Verify().verification.findings), Not(IsEmpty())) << text;
  }
}

TEST_P(EachFormTest, ReshardCutsWhatItCanDecodeAndRefusesTheOthers) {
  WriteWith(GetParam());
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  if (IsDecoded(GetParam())) {
    RunReshard(in(), out(), options);
    RunMerge(out(), dir_ / "again");
    ExpectSameFiles(in(), dir_ / "again");
    return;
  }
  ExpectRefused([&] { RunReshard(in(), out(), options); }, GetParam(), "With --ep 2 experts stay");
}

TEST_F(QuantizedFormTest, StructureFindsPackedCodesOfAnotherShapeAndALostScale) {
  int seen = 0;
  ReplaceExperts([&](const Module& m) {
    const std::uint64_t words = CeilDiv(m.cols, 8) + (seen == 0 ? 100 : 0);
    m.Add("weight_packed", Dtype::kI32, {m.rows, words});
    if (seen != 1) m.Add("weight_scale", Dtype::kBF16, {m.rows, CeilDiv(words * 8, 32)});
    m.Add("weight_shape", Dtype::kI64, {2});
    ++seen;
  });
  SetConfig("quantization_config", kPackedInt4);
  const formats::Findings findings = Findings();
  ASSERT_EQ(findings.size(), 2U);
  EXPECT_THAT((std::vector<std::string>{findings[0].kind, findings[1].kind}),
              ::testing::UnorderedElementsAre("wrong-shape", "missing-scale"));
  for (const formats::Finding& finding : findings) {
    EXPECT_THAT(finding.message, HasSubstr("packed INT4"));
  }
}

TEST_F(QuantizedFormTest, CastsNameDequantizeWhereItReadsTheForm) {
  const auto refusal_of = [&](const char* name) {
    WriteWith(*std::find_if(std::begin(kForms), std::end(kForms),
                            [&](const Form& form) { return std::string(form.test_name) == name; }));
    return ErrorOf([&] { Conversion(in(), out()).Run(); }).message();
  };
  const TinyCheckpoint plain = checkpoint_;
  EXPECT_THAT(refusal_of("Int8Rows"), HasSubstr("`dsv3-convert dequantize`"));
  checkpoint_ = plain;
  EXPECT_THAT(refusal_of("BitsandbytesNf4"),
              AllOf(HasSubstr("give the checkpoint that they were made from"),
                    Not(HasSubstr("dsv3-convert dequantize"))));
}

// Of forms that are not known nothing is missing: what they need is there under other names.
TEST_F(QuantizedFormTest, CodesOfFormsThatAreNotKnownAreNotCalledMissing) {
  const TinyCheckpoint plain = checkpoint_;
  const auto names = {std::pair("_blocks", "mxfp4"), std::pair(".W_q", "hqq"),
                      std::pair(".weight._data", "quanto"), std::pair(".indices", "")};
  for (const auto& [part, method] : names) {
    checkpoint_ = plain;
    ReplaceExperts([&, part = std::string(part)](const Module& m) {
      const std::string module = m.base.substr(0, m.base.size() - 1);
      m.checkpoint.Add(m.shard, module + part, Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
    });
    if (*method != '\0') {
      SetConfig("quantization_config", std::string(R"({"quant_method": ")") + method + "\"}");
    }
    const std::string place = std::string(part) + "' (U8 [";
    const auto says_so = AllOf(HasSubstr("under th"), HasSubstr(place), HasSubstr(method),
                               HasSubstr("is there in its place"), HasSubstr("is not known here"),
                               Not(HasSubstr("incomplete")), Not(HasSubstr("download")));
    bool found = false;
    for (const formats::Finding& finding : Findings()) {
      if (finding.kind != "missing-tensor") continue;
      found = true;
      EXPECT_THAT(finding.message, says_so);
    }
    EXPECT_TRUE(found) << part;
    EXPECT_THAT(ErrorOf([&] { Conversion(in(), out()).Run(); }).message(), says_so);
    const formats::Findings of_all_checks = convert::JudgeCompleteness(in());
    ASSERT_EQ(of_all_checks.size(), 1U);
    EXPECT_THAT(of_all_checks[0].message, AllOf(says_so, HasSubstr("it predicts")));
  }
}

TEST_F(QuantizedFormTest, CodesOfAnUnknownMethodNeedNoScaleOfAKnownOne) {
  ReplaceExperts([](const Module& m) { m.Add("weight", Dtype::kI8, {m.rows, m.cols}); });
  SetConfig("quantization_config", R"({"quant_method": "torchao"})");
  const formats::Findings findings = Findings();
  ASSERT_THAT(Lines(findings), SizeIs(1));
  EXPECT_EQ(findings[0].kind, "unknown-quantization");
  EXPECT_EQ(findings[0].severity, formats::Severity::kWarning);
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("I8 codes, but the method 'torchao' (quant_method) of config.json"),
                    HasSubstr("cannot be judged")));
  // Of a known one the scale is lost.
  SetConfig("quantization_config", kInt8Rows);
  EXPECT_THAT(Lines(Findings()), Not(IsEmpty()));
}

TEST_F(QuantizedFormTest, CodesThatNothingExplainsAreNamed) {
  ReplaceExperts([](const Module& m) { m.Add("weight", Dtype::kI8, {m.rows, m.cols}); });
  SetConfig("model_type", R"("other")");
  const auto named = [](const formats::Findings& findings) {
    return std::count_if(findings.begin(), findings.end(), [](const formats::Finding& finding) {
      return finding.kind == "unexplained-codes" &&
             finding.severity == formats::Severity::kWarning &&
             finding.message.find("is I8, and neither config.json nor a tensor") !=
                 std::string::npos &&
             finding.message.find(" more such weights)") != std::string::npos;
    });
  };
  EXPECT_EQ(named(Findings()), 1);
  convert::ProgressSink progress;
  const convert::NumericRequest request{.input = in(), .histogram = ""};
  EXPECT_EQ(named(convert::VerifyNumeric(request, progress, {}).verification.findings), 1);
}

// By ModelOpt's algorithm: its scales are lost.
TEST_F(QuantizedFormTest, Fp4OfModelOptIsNamedByItsAlgorithm) {
  ReplaceExperts([](const Module& m) {
    m.Add("weight", Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
  });
  for (const auto& [algorithm, form] :
       {std::pair("MXFP4", "MXFP4"), std::pair("W4A8_MXFP4_FP8", "MXFP4"),
        std::pair("NVFP4", "NVFP4"), std::pair("W4A8_NVFP4_FP8", "NVFP4")}) {
    SetConfig("quantization_config",
              fmt::format(R"({{"quant_method": "modelopt", "quant_algo": "{}"}})", algorithm));
    const formats::Findings findings = Findings();
    ASSERT_FALSE(findings.empty());
    for (const formats::Finding& finding : findings) {
      EXPECT_EQ(finding.kind, "missing-scale");
      EXPECT_THAT(finding.message, HasSubstr(std::string("holds ") + form + " ")) << algorithm;
    }
  }
}

// The name of the algorithm alone is not known.
TEST_F(QuantizedFormTest, AnUnknownAlgorithmOrFormatIsNamed) {
  ReplaceExperts([](const Module& m) {
    m.Add("weight", Dtype::kU8, {m.rows, CeilDiv(m.cols, 2)});
    m.Add("weight_scale", Dtype::kF8E4M3, {m.rows, CeilDiv(m.cols, 16)});
    m.Add("weight_scale_2", Dtype::kF32, {});
  });
  SetConfig("quantization_config", R"({"quant_method": "modelopt", "quant_algo": "TERNARY"})");
  const formats::Findings findings = Findings();
  ASSERT_THAT(Lines(findings), SizeIs(1));
  EXPECT_EQ(findings[0].kind, "unknown-quantization");
  EXPECT_THAT(findings[0].message, HasSubstr("the algorithm 'TERNARY' (quant_algo) of ModelOpt"));
}

TEST_F(QuantizedFormTest, CodesWithNothingBesideThemAreNamedByTheConfig) {
  const auto refusal_with = [&](const char* method, Dtype dtype) {
    ReplaceExperts([&](const Module& m) { m.Add("weight", dtype, {m.rows, m.cols}); });
    SetConfig("quantization_config", std::string(R"({"quant_method": ")") + method + "\"}");
    Write();
    return ErrorOf([&] { Conversion(in(), out()).Run(); }).message();
  };
  EXPECT_THAT(refusal_with("bitsandbytes", Dtype::kI8), HasSubstr("bitsandbytes int8"));
  EXPECT_THAT(refusal_with("quark", Dtype::kI8),
              HasSubstr("quantised I8 weights (config.json says quark)"));
}

}  // namespace
}  // namespace dsv3::testing
