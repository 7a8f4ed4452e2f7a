#include "convert/open/completeness.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/inspect/inspection.h"
#include "convert/open/numbered_files.h"
#include "convert/recipes/layout.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "convert/verify/provenance.h"
#include "convert/verify/structure.h"
#include "formats/error.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/part_test.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/convert/verify/structure_test.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::kTinyShard3;
using testing::Lines;
using ::testing::Not;
using ::testing::SizeIs;
using testing::WriteFile;

constexpr const char* kIndex = "model.safetensors.index.json";

std::string Missing(const std::string& shard) { return "missing-shard " + shard + " "; }

class CompletenessTest : public testing::PartTest {
 protected:
  formats::Findings Judge() const { return JudgeCompleteness(in_); }
  static std::string Codes(const Error& error) {
    return std::string(ErrorCodeName(error.code())) + ": " + error.message();
  }
  NumericReport Numeric(const fs::path& input) const {
    NumericRequest request;
    request.input = input;
    ProgressSink progress;
    const StopToken stop;
    return VerifyNumeric(request, progress, stop);
  }
  CompareReport Compare(const fs::path& a, const fs::path& b) const {
    CompareRequest request;
    request.a = a;
    request.b = b;
    ProgressSink progress;
    const StopToken stop;
    return CompareCheckpoints(request, progress, stop);
  }
};

TEST_F(CompletenessTest, AWholeCheckpointHasNoFinding) {
  EXPECT_THAT(Lines(Judge()), IsEmpty());
  EXPECT_THAT(Lines(JudgeCompleteness(dir_ / "expected")), IsEmpty());
}

TEST_F(CompletenessTest, TheIndexSaysWhichShardsThereMustBe) {
  fs::remove(in_ / kTinyShard2);
  EXPECT_THAT(Lines(Judge()), ElementsAre(Missing(kTinyShard2)));
  WriteFile(in_ / kIndex, "{");
  EXPECT_THAT(Lines(Judge()), Contains(std::string("unreadable-index ") + kIndex + " "));
}

TEST_F(CompletenessTest, NumbersSayWhichShardsThereMustBeWithoutAnIndex) {
  fs::remove(in_ / kIndex);
  EXPECT_THAT(Lines(Judge()), IsEmpty());
  fs::remove(in_ / kTinyShard2);
  fs::remove(in_ / kTinyShard3);
  const formats::Findings findings = JudgeCompleteness(in_);
  EXPECT_THAT(Lines(findings), ElementsAre(Missing(kTinyShard2)));
  EXPECT_THAT(findings[0].message, AllOf(HasSubstr("1 more"), HasSubstr("4 shards")));
}

TEST_F(CompletenessTest, TheHubsRecordsSayWhichFilesThereMustBe) {
  const auto record = [&](const std::string& name) {
    WriteFile(in_ / ".cache/huggingface/download" / (name + ".metadata"),
              std::string(40, 'c') + "\n" + std::string(40, 'e') + "\n1\n");
  };
  for (const char* name : {"config.json", kIndex, "README.md", kTinyShard1}) record(name);
  EXPECT_THAT(Lines(Judge()), IsEmpty());
  // Left out on purpose, perhaps; the index says that it is none of the shards.
  record("consolidated.safetensors");
  fs::remove(in_ / "README.md");
  EXPECT_THAT(Lines(Judge()), IsEmpty());
  fs::remove(in_ / "config.json");
  EXPECT_THAT(Lines(Judge()), ElementsAre("missing-file config.json "));
  fs::remove(in_ / kIndex);
  EXPECT_THAT(Lines(Judge()), ElementsAre("missing-file config.json ",
                                          std::string("missing-file ") + kIndex + " "));
}

TEST_F(CompletenessTest, TheListingNamesWeightsWhereThereIsNoIndex) {
  fs::remove_all(in_);
  WriteFile(in_ / ".cache/huggingface/trees" / (std::string(40, 'c') + ".json"),
            R"({"format_version": 1, "files": {"model.safetensors": {"size": 1, "blob_id": ")" +
                std::string(40, 'b') + R"("}, "a/b.safetensors": {"size": 1, "blob_id": ")" +
                std::string(40, 'b') + R"("}}})");
  EXPECT_THAT(Lines(Judge()), ElementsAre("missing-file model.safetensors "));
}

TEST_F(CompletenessTest, TheConfigSaysWhichTensorsThereMustBe) {
  testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  model.Drop("model.norm.weight");
  fs::remove_all(in_);
  model.Write(in_);
  const std::string missing = "missing-tensor config.json model.norm.weight";
  const formats::Findings findings = Judge();
  EXPECT_THAT(Lines(findings), ElementsAre(missing));
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("predicts 1 tensor that"),
                    HasSubstr("; the checkpoint is incomplete or the config belongs to another")));
  EXPECT_THAT(Lines(Numeric(in_).verification.findings), Contains(missing));
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Create(in_, true); })),
              AllOf(HasSubstr("bad-input: config.json: it predicts 1 tensor"),
                    HasSubstr("making checksums is refused until then")));
  // Both have all tensors that the other one has.
  EXPECT_THAT(Lines(Compare(in_, in_).verification.findings), Contains("warning " + missing));
  testing::SmallModelCheckpoint().Write(dir_ / "whole");
  EXPECT_FALSE(Compare(in_, dir_ / "whole").verification.Passes(false));
  // Sums that somebody made of it do not say that it is whole.
  std::string sums;
  for (const char* name : {"config.json", kIndex}) {
    sums += testing::Sha256Of(testing::ReadFile(in_ / name)) + "  " + name + "\n";
  }
  WriteFile(in_ / "SHA256SUMS", sums);
  EXPECT_THAT(Lines(testing::Check(in_).verification.findings), Contains(missing));
  fs::remove(in_ / kIndex);
  EXPECT_THAT(Lines(Judge()), ElementsAre(missing));
}

// Its codes are there in a form that is not known, and nobody can say what is missing.
TEST_F(CompletenessTest, WeightsInAFormThatIsNotKnownAreNotMissing) {
  testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  for (testing::TinyTensor& tensor : model.tensors) {
    if (tensor.name == "model.layers.0.mlp.up_proj.weight") {
      tensor.name = "model.layers.0.mlp.up_proj.W_q";
      tensor.dtype = formats::Dtype::kU8;
    }
  }
  fs::remove_all(in_);
  model.Write(in_);
  const formats::Findings findings = Judge();
  EXPECT_THAT(Lines(findings), ElementsAre("warning missing-tensor config.json "
                                           "model.layers.0.mlp.up_proj.weight"));
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("under these names"), Not(HasSubstr("incomplete"))));
  EXPECT_TRUE(testing::Create(in_, false).written);
}

// The config is that of the model on Hugging Face, and the tensors have a training stack's names.
TEST_F(CompletenessTest, TrainingCheckpointsAreJudgedByTheirOwnMap) {
  testing::MakeSample(SamplePreset::kTiny, 1, dir_ / "fp8");
  testing::Conversion(dir_ / "fp8", dir_ / "model").Run();
  for (const std::string layout : {"deepseek", "transformers-fused", "mindformers-train",
                                   "mindformers-infer", "mindformers-mcore-v1"}) {
    SCOPED_TRACE(layout);
    fs::remove_all(out_);
    testing::Conversion(dir_ / "model", out_, LayoutConversion({.to = layout})).Run();
    EXPECT_THAT(Lines(JudgeCompleteness(out_)), IsEmpty());
    EXPECT_THAT(testing::Check(out_).verification.findings, IsEmpty());
    EXPECT_TRUE(testing::Create(out_, false).written);
    if (!layout.starts_with("mindformers-")) continue;
    const std::string file = layout == "mindformers-infer" ? "model_layer_0.safetensors"
                                                           : "ms-model-00001-of-00005.safetensors";
    fs::remove(out_ / file);
    const formats::Findings findings = JudgeCompleteness(out_);
    EXPECT_THAT(Lines(findings), ElementsAre(Missing(file)));
    EXPECT_THAT(findings[0].message, HasSubstr("param_name_map.json gives "));
    WriteFile(out_ / "param_name_map.json", "{");
    EXPECT_THAT(Lines(JudgeCompleteness(out_)),
                ElementsAre("unreadable-index param_name_map.json "));
  }
}

TEST_F(CompletenessTest, SaysWhichValueOfTheConfigWouldFit) {
  testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  model.DropContaining("model.layers.2.");
  fs::remove_all(in_);
  model.Write(in_);
  const auto hint = HasSubstr("or set num_nextn_predict_layers to 0 if");
  const formats::Findings findings = Judge();
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_THAT(findings[0].message, hint);
}

// An MTP layer in a file that the index leaves out.
TEST_F(CompletenessTest, EveryCheckNamesTheUnlistedFileThatHoldsWhatIsMissing) {
  const testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  testing::TinyCheckpoint sidecar = model;
  std::erase_if(sidecar.tensors, [](const testing::TinyTensor& tensor) {
    return !tensor.name.starts_with("model.layers.2.");
  });
  for (testing::TinyTensor& tensor : sidecar.tensors) tensor.shard = "mtp.safetensors";
  testing::TinyCheckpoint main = model;
  main.DropContaining("model.layers.2.");
  const auto names_it =
      AllOf(HasSubstr("mtp.safetensors holds "), HasSubstr("the index does not list that file"),
            Not(HasSubstr("num_nextn_predict_layers")), Not(HasSubstr("download")),
            Not(HasSubstr("incomplete")));
  const auto message_of = [](const formats::Findings& findings) {
    for (const formats::Finding& finding : findings) {
      if (finding.kind == "missing-tensor") return finding.message;
    }
    return std::string("no finding");
  };
  for (const char* name : {"mtp.safetensors", "layers/mtp.safetensors"}) {
    SCOPED_TRACE(name);
    fs::remove_all(in_);
    main.Write(in_);
    WriteFile(in_ / name, sidecar.ShardBytes("mtp.safetensors"));
    EXPECT_THAT(message_of(Judge()), names_it);
    EXPECT_THAT(message_of(Numeric(in_).verification.findings), names_it);
    EXPECT_THAT(message_of(VerifyStructure({in_}).verification.findings), names_it);
    EXPECT_THAT(message_of(Inspect(in_).findings), names_it);
    EXPECT_THAT(Codes(ErrorOf([&] { testing::Conversion(in_, out_).Run(); })), names_it);
  }
}

TEST_F(CompletenessTest, EveryCheckSaysWhereAnIndexIsOfAnotherDivision) {
  const testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  fs::remove_all(in_);
  model.Write(in_);
  std::string index = testing::ReadFile(in_ / kIndex);
  for (std::size_t at = 0; (at = index.find("-of-00004", at)) != std::string::npos; ++at) {
    index.replace(at, 9, "-of-00030");
  }
  WriteFile(in_ / kIndex, index);
  const auto says_it = AllOf(HasSubstr("the index is of another division into files"),
                             HasSubstr("such as model-0000"));
  const auto message_of = [](const formats::Findings& findings) {
    for (const formats::Finding& finding : findings) {
      if (finding.kind == "missing-shard") return finding.message;
    }
    return std::string("no finding");
  };
  EXPECT_THAT(message_of(Judge()), says_it);
  EXPECT_THAT(message_of(Numeric(in_).verification.findings), says_it);
  EXPECT_THAT(message_of(VerifyStructure({in_}).verification.findings), says_it);
  EXPECT_THAT(Codes(ErrorOf([&] { Inspect(in_); })), says_it);
}

TEST_F(CompletenessTest, EveryCheckNamesTheFileThatHasAnotherName) {
  const std::string shard = testing::kTinyShard2;
  const std::string stem = shard.substr(0, shard.rfind('.'));
  for (const std::string& name : {stem + " (1).safetensors", "copy of " + shard}) {
    fs::rename(in_ / shard, in_ / name);
    const auto says_it = HasSubstr("'" + name + "' holds just what the index lists for it");
    EXPECT_THAT(Codes(ErrorOf([&] { Inspect(in_); })), says_it);
    const formats::Findings findings = Judge();
    ASSERT_THAT(findings, SizeIs(1));
    EXPECT_THAT(findings[0].message, AllOf(says_it, Not(HasSubstr("download"))));
    fs::rename(in_ / name, in_ / shard);
  }
}

TEST_F(CompletenessTest, CopiesAreNoSetOfWhichShardsAreMissing) {
  const auto missing = [](const std::vector<std::string>& files) {
    return Lines(FindMissingNumbers(files, ""));
  };
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  EXPECT_THAT(missing({first, second, "copy of " + first}), IsEmpty());
  EXPECT_THAT(missing({first, "copy of " + first}),
              ElementsAre("missing-shard model-00002-of-00002.safetensors "));
  EXPECT_THAT(missing({first, second, "draft-00001-of-00002.safetensors"}),
              ElementsAre("missing-shard draft-00002-of-00002.safetensors "));
}

TEST_F(CompletenessTest, FilesOfTheDemoAreAllOfTheirRanks) {
  const std::string shard = testing::SmallModelCheckpoint().ShardBytes(kTinyShard1);
  const fs::path demo = dir_ / "demo";
  WriteFile(demo / "model0-mp2.safetensors", shard);
  EXPECT_THAT(Lines(JudgeCompleteness(demo)), ElementsAre(Missing("model1-mp2.safetensors")));
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Create(demo, false); })),
              AllOf(HasSubstr("bad-input: model1-mp2.safetensors: "), HasSubstr("2 ranks")));
  WriteFile(demo / "model1-mp2.safetensors", shard);
  EXPECT_THAT(JudgeCompleteness(demo), IsEmpty());
}

TEST_F(CompletenessTest, AddsNoFileTwice) {
  formats::Findings findings(2);
  findings[0].kind = "missing-file";
  findings[0].file = "a";
  findings[1].kind = "wrong-size";
  findings[1].file = "b";
  formats::Findings more(3);
  more[0].kind = more[1].kind = "missing-shard";
  more[0].file = "a";
  more[1].file = "b";
  more[2].kind = "unfinished-download";
  more[2].file = "a";
  AddUnlessKnown(more, findings);
  EXPECT_THAT(Lines(findings), ElementsAre("missing-file a ", "wrong-size b ", "missing-shard b ",
                                           "unfinished-download a "));
}

TEST_F(CompletenessTest, EveryCheckNamesAnUnfinishedConversion) {
  InterruptAfter(Whole(), kTinyShard1);
  const auto names_it = AllOf(HasSubstr("fp8-to-bf16"), HasSubstr("files are complete"));
  const auto bad_input = AllOf(HasSubstr("bad-input: "), names_it);
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Check(out_); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { Numeric(out_); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { Compare(out_, in_); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { Compare(in_, out_); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { TraceProvenance({out_, {}}); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Conversion(out_, dir_ / "next").Run(); })), bad_input);
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Create(out_, true); })),
              AllOf(HasSubstr("usage: "), names_it));
  EXPECT_THAT(Lines(VerifyStructure({out_}).verification.findings),
              ElementsAre("unfinished-conversion .dsv3-journal "));
  EXPECT_THAT(Lines(Inspect(out_).findings), Contains("unfinished-conversion .dsv3-journal "));
}

TEST_F(CompletenessTest, EveryCheckNamesADownloadThatIsUnderWay) {
  ASSERT_TRUE(testing::Create(in_, false).written);
  WriteFile(in_ / ".cache/huggingface/download/x.incomplete", "x");
  const auto marked =
      Contains("warning unfinished-download .cache/huggingface/download/x.incomplete ");
  EXPECT_THAT(Lines(testing::Check(in_).verification.findings), marked);
  EXPECT_TRUE(testing::Check(in_).verification.Passes(false));
  EXPECT_THAT(Lines(Numeric(in_).verification.findings), marked);
  EXPECT_THAT(Lines(Compare(in_, in_).verification.findings), marked);
  EXPECT_THAT(Lines(TraceProvenance({in_, {}}).verification.findings), marked);
  EXPECT_THAT(Lines(VerifyStructure({in_}).verification.findings), marked);
  EXPECT_THAT(Lines(Inspect(in_).findings), marked);
  EXPECT_THAT(Lines(testing::Conversion(in_, out_).Run().warnings), marked);
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Create(in_, true); })),
              AllOf(HasSubstr("bad-input: "), HasSubstr("hf download")));
}

TEST_F(CompletenessTest, SumsAreNotMadeOfWhatIsNotWholeAndCheckedSumsDoNotHideIt) {
  ASSERT_TRUE(testing::Create(in_, false).written);
  fs::remove(in_ / "checkpoint.manifest.json");
  fs::remove(in_ / kTinyShard2);
  std::string sums = testing::ReadFile(in_ / "SHA256SUMS");
  for (const std::string& name :
       {std::string(kTinyShard2), std::string("checkpoint.manifest.json")}) {
    const std::size_t end = sums.find(name) + name.size() + 1;
    sums.erase(end - 1 - name.size() - 66, name.size() + 67);
  }
  WriteFile(in_ / "SHA256SUMS", sums);
  EXPECT_THAT(Lines(testing::Check(in_).verification.findings), ElementsAre(Missing(kTinyShard2)));
  EXPECT_THAT(Codes(ErrorOf([&] { testing::Create(in_, true); })),
              AllOf(HasSubstr("bad-input: "), HasSubstr(kTinyShard2)));
  EXPECT_FALSE(fs::exists(in_ / "checkpoint.manifest.json"));
}

TEST_F(CompletenessTest, ValuesOfPartOfTheShardsDoNotPass) {
  fs::remove(in_ / kIndex);
  fs::remove(in_ / kTinyShard2);
  EXPECT_THAT(Lines(Numeric(in_).verification.findings), Contains(Missing(kTinyShard2)));
  EXPECT_THAT(Codes(ErrorOf([&] { Compare(in_, in_); })), HasSubstr(kTinyShard2));
  EXPECT_THAT(Lines(VerifyStructure({in_}).verification.findings), Contains(Missing(kTinyShard2)));
  // A file that was named by itself is all that is asked for.
  EXPECT_THAT(Lines(VerifyStructure({in_ / kTinyShard1}).verification.findings),
              Not(Contains(HasSubstr("missing-shard"))));
}

}  // namespace
}  // namespace dsv3::convert
