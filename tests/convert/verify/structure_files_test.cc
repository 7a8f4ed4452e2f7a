#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include "convert/recipes/sample.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/json/json_edit.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/verify/structure_test.h"
#include "tests/support/files.h"

// Files, headers and the index.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

using formats::Dtype;
using formats::Severity;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kNorm[] = "model.layers.0.input_layernorm.weight";

using StructureFilesTest = StructureTest;

class CleanTest : public StructureTest {
 protected:
  void ExpectClean(const fs::path& path) const {
    const convert::StructureReport report = convert::VerifyStructure({path});
    EXPECT_THAT(Lines(report.verification.findings), IsEmpty());
    EXPECT_TRUE(report.known_model);
  }
};

TEST_F(CleanTest, SamplesAndTheirBf16OutputsHaveNoFinding) {
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  convert::WriteSample({convert::SamplePreset::kTiny, 3}, in(), file_system, progress);
  ExpectClean(in());
  Conversion(in(), dir_ / "bf16").Run();
  ExpectClean(dir_ / "bf16");
}

TEST_F(CleanTest, OneFileHasNoFinding) {
  for (TinyTensor& tensor : checkpoint_.tensors) tensor.shard = "model.safetensors";
  checkpoint_.has_index = false;
  Write();
  ExpectClean(in());
  ExpectClean(in() / "model.safetensors");
}

TEST_F(CleanTest, AHubCacheHasNoFinding) {
  Write();
  const fs::path cache = dir_ / "models--org--name";
  fs::create_directories(cache / "blobs");
  fs::create_directories(cache / "snapshots/0123");
  for (const auto& [name, content] : ReadTree(in())) {
    WriteFile(cache / "blobs" / ("b" + name), content);
    fs::create_symlink("../../blobs/b" + name, cache / "snapshots/0123" / name);
  }
  WriteFile(cache / "refs/main", "0123");
  ExpectClean(cache);
  ExpectClean(cache / "snapshots/0123");
}

TEST_F(CleanTest, ADownloadOfTheHubHasNoFinding) {
  Write();
  WriteFile(in() / ".cache/huggingface/download/config.json.metadata", "0\n0\n0\n");
  WriteFile(in() / "SHA256SUMS", "");
  WriteFile(in() / ".gitattributes", "");
  ExpectClean(in());
}

TEST_F(StructureFilesTest, OnlyWarnsOfShardsWithoutAnIndex) {
  checkpoint_.has_index = false;
  EXPECT_THAT(Lines(Findings()), ElementsAre("warning no-index  "));
}

TEST_F(StructureFilesTest, TakesAnAbsentTotalSizeAndFindsAWrongOne) {
  const std::string index = checkpoint_.IndexText();
  checkpoint_.index_text = formats::RemoveJsonMember(index, "metadata", kIndex);
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  for (const std::string value : {"0", "17", "-1", "1.5", "\"17\"", "[]"}) {
    SCOPED_TRACE(value);
    checkpoint_.index_text =
        formats::ReplaceJsonMember(index, "metadata/total_size", value, kIndex);
    const formats::Finding finding = OnlyFinding();
    EXPECT_EQ(finding.kind, "wrong-total-size");
    EXPECT_EQ(finding.severity, Severity::kError);
    EXPECT_EQ(finding.file, kIndex);
    EXPECT_THAT(finding.message, HasSubstr("metadata.total_size"));
  }
}

TEST_F(StructureFilesTest, FindsTensorsThatTheIndexDoesNotList) {
  KeepIndex();
  for (const char* name : {"stray.b", "stray.a"}) {
    checkpoint_.Add(kTinyShard2, name, Dtype::kBF16, {1});
  }
  checkpoint_.index_text = formats::RemoveJsonMember(*checkpoint_.index_text, "metadata", kIndex);
  const std::string shard = kTinyShard2;
  EXPECT_THAT(Lines(Findings()), ElementsAre("tensor-not-in-index " + shard + " stray.a",
                                             "warning unexpected-tensor " + shard + " stray.a",
                                             "tensor-not-in-index " + shard + " stray.b",
                                             "warning unexpected-tensor " + shard + " stray.b"));
}

TEST_F(StructureFilesTest, FindsTensorsThatAreNotWhereTheIndexSays) {
  KeepIndex();
  checkpoint_.Find(kNorm).shard = kTinyShard3;
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(std::string("tensor-not-in-shard ") + kTinyShard1 + " " + kNorm));
  checkpoint_.DropContaining(kNorm);
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(std::string("missing-tensor  ") + kNorm,
                          std::string("tensor-not-in-shard ") + kTinyShard1 + " " + kNorm,
                          std::string("wrong-total-size ") + kIndex + " "));
}

TEST_F(StructureFilesTest, FindsEveryTensorThatIsInTwoShards) {
  checkpoint_.index_text = formats::RemoveJsonMember(checkpoint_.IndexText(), "metadata", kIndex);
  const std::string linear = "model.layers.0.self_attn.o_proj.weight";
  checkpoint_.Add(kTinyShard4, kNorm, Dtype::kF32, {3});  // is the right one in shard 1
  checkpoint_.Add(kTinyShard2, linear, Dtype::kF8E4M3, checkpoint_.Find(linear).shape);
  checkpoint_.Add(kTinyShard3, linear, Dtype::kF8E4M3, checkpoint_.Find(linear).shape);
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(std::string("tensor-in-two-shards ") + kTinyShard2 + " " + linear,
                          std::string("tensor-in-two-shards ") + kTinyShard3 + " " + linear,
                          std::string("tensor-in-two-shards ") + kTinyShard4 + " " + kNorm));
  checkpoint_.has_index = false;
  fs::remove(in() / kIndex);
  EXPECT_THAT(Lines(Findings()),
              ElementsAre("warning no-index  ",
                          std::string("tensor-in-two-shards ") + kTinyShard2 + " " + linear,
                          std::string("tensor-in-two-shards ") + kTinyShard3 + " " + linear,
                          std::string("tensor-in-two-shards ") + kTinyShard4 + " " + kNorm));
}

TEST_F(StructureFilesTest, JudgesTheCopyThatTheIndexLists) {
  checkpoint_.Find(kNorm).shard = kTinyShard4;
  checkpoint_.index_text = formats::RemoveJsonMember(checkpoint_.IndexText(), "metadata", kIndex);
  checkpoint_.Add(kTinyShard1, kNorm, Dtype::kF32, {3});
  EXPECT_THAT(Lines(Findings()),
              ElementsAre(std::string("tensor-in-two-shards ") + kTinyShard1 + " " + kNorm));
}

TEST_F(StructureFilesTest, FindsAShardWithANameOfTheToolkitsOwn) {
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.shard == kTinyShard4) tensor.shard = "last.partial";
  }
  const formats::Finding finding = OnlyFinding();
  EXPECT_EQ(finding.kind, "reserved-shard-name");
  EXPECT_EQ(finding.severity, Severity::kError);
  EXPECT_EQ(finding.file, "last.partial");
  EXPECT_THAT(finding.message, HasSubstr("rename the shard"));
}

TEST_F(StructureFilesTest, FindsAFileThatTheIndexDoesNotList) {
  TinyCheckpoint other;
  other.has_index = false;
  other.Add("extra.safetensors", kNorm, Dtype::kBF16, {8});
  other.Add("extra.safetensors", "new", Dtype::kBF16, {8});
  other.Write(in());
  Write();
  WriteFile(in() / "junk.safetensors", "junk");
  WriteFile(in() / "original/consolidated.safetensors", "junk");
  WriteFile(in() / "z.safetensors", "junk");
  EXPECT_THAT(Verify().verification.files, ::testing::Contains("extra.safetensors"));
  const formats::Findings findings = Verify().verification.findings;
  EXPECT_THAT(Lines(findings),
              ElementsAre("unlisted-shard extra.safetensors ", "unlisted-shard junk.safetensors ",
                          "warning unlisted-shard original/consolidated.safetensors ",
                          "unlisted-shard z.safetensors "));
  EXPECT_THAT(findings[0].message,
              AllOf(HasSubstr("holds 2 tensors, 1 of them also in listed shards"),
                    HasSubstr("take an index that lists it; no other file holds")));
  EXPECT_THAT(findings[1].message, HasSubstr("cannot be read"));
}

TEST_F(StructureFilesTest, OnlyWarnsOfNonconformingHeaders) {
  Write();
  const fs::path shard = in() / kTinyShard4;
  std::string bytes = ReadFile(shard);
  const std::string field = R"("note":1,)";
  bytes.insert(bytes.find(R"("dtype":)"), field);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  length += field.size();
  std::memcpy(bytes.data(), &length, sizeof(length));
  WriteFile(shard, bytes);
  const convert::Verification verification = Verify().verification;
  for (const formats::Finding& finding : verification.findings) {
    EXPECT_EQ(finding.severity, Severity::kWarning) << finding.message;
    EXPECT_EQ(finding.file, kTinyShard4);
  }
  EXPECT_THAT(Lines(verification.findings),
              ::testing::Contains(HasSubstr("warning unknown-tensor-field")));
  EXPECT_TRUE(verification.Passes(/*strict=*/false));
  EXPECT_FALSE(verification.Passes(/*strict=*/true));
}

TEST_F(StructureFilesTest, SaysNothingAboutTheTensorsOfAFileThatCannotBeRead) {
  Write();
  WriteFile(in() / kTinyShard2, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(Lines(Verify().verification.findings),
              ElementsAre(std::string("unreadable-shard ") + kTinyShard2 + " "));
  fs::remove(in() / kTinyShard4);  // with scales of weights that are there
  EXPECT_THAT(Lines(Verify().verification.findings),
              ElementsAre(std::string("unreadable-shard ") + kTinyShard2 + " ",
                          std::string("missing-shard ") + kTinyShard4 + " "));
  fs::remove(in() / kIndex);
  WriteFile(in() / kTinyShard1, "");
  EXPECT_THAT(
      Lines(Verify().verification.findings),
      ElementsAre("warning no-index  ", std::string("unreadable-shard ") + kTinyShard1 + " ",
                  std::string("unreadable-shard ") + kTinyShard2 + " ",
                  std::string("missing-shard ") + kTinyShard4 + " "));
}

TEST_F(StructureFilesTest, SaysNothingAboutV4NamesInAFileThatCannotBeRead) {
  for (TinyTensor& tensor : checkpoint_.tensors) {
    const std::size_t suffix = tensor.name.find(".weight_scale_inv");
    if (suffix == std::string::npos) continue;
    tensor.name = tensor.name.substr(0, suffix) + ".scale";
    tensor.dtype = Dtype::kF8E8M0;
    tensor.bytes = std::string(tensor.bytes.size() / 4, '\x7f');
  }
  const std::string linear = "model.layers.0.self_attn.o_proj";
  // A weight there whose scale can be read, and the reverse.
  checkpoint_.Find(linear + ".scale").shard = kTinyShard2;
  checkpoint_.Find("model.layers.1.self_attn.o_proj.weight").shard = kTinyShard1;
  EXPECT_THAT(Lines(Findings()), IsEmpty());
  for (const char* const shard : {kTinyShard1, kTinyShard2}) {
    Write();
    WriteFile(in() / shard, "");
    EXPECT_THAT(Lines(Verify().verification.findings),
                ElementsAre(std::string("unreadable-shard ") + shard + " "));
  }
}

TEST_F(StructureFilesTest, LeavesOpenWhetherAFileThatCannotBeReadIsQuantised) {
  std::erase_if(checkpoint_.tensors, [](const TinyTensor& tensor) {
    return tensor.name.ends_with("_scale_inv") || tensor.shard != kTinyShard1;
  });
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.dtype != Dtype::kF8E4M3) continue;
    tensor.dtype = Dtype::kBF16;
    tensor.bytes += tensor.bytes;
  }
  checkpoint_.Add(kTinyShard2, "other", Dtype::kBF16, {1});
  Write();
  WriteFile(in() / kTinyShard2, "");
  EXPECT_THAT(Lines(Verify().verification.findings),
              ::testing::Not(::testing::Contains(HasSubstr("leftover-quantization-config"))));
}

TEST_F(StructureFilesTest, StillJudgesTheOtherFiles) {
  KeepIndex();
  checkpoint_.DropContaining("model.layers.0.input_layernorm.weight");
  checkpoint_.DropContaining("model.layers.0.self_attn.o_proj.weight_scale_inv");
  Write();
  WriteFile(in() / kTinyShard2, "<!DOCTYPE html>");
  const std::string shard = kTinyShard1;
  const std::string linear = "model.layers.0.self_attn.o_proj.weight";
  EXPECT_THAT(
      Lines(Verify().verification.findings),
      ElementsAre(std::string("missing-tensor  ") + kNorm, "missing-scale " + shard + " " + linear,
                  "tensor-not-in-shard " + shard + " " + kNorm,
                  "tensor-not-in-shard " + shard + " " + linear + "_scale_inv",
                  std::string("unreadable-shard ") + kTinyShard2 + " "));
}

TEST_F(StructureFilesTest, ChecksTheModelWithoutAnIndexThatCannotBeRead) {
  checkpoint_.DropContaining(kNorm);
  checkpoint_.index_text = "{";
  const formats::Findings findings = Findings();
  EXPECT_THAT(Lines(findings), ElementsAre(std::string("missing-tensor  ") + kNorm,
                                           std::string("unreadable-index ") + kIndex + " "));
  EXPECT_THAT(findings[1].message, HasSubstr("were checked without it"));
}

TEST_F(StructureFilesTest, ChecksTheFilesWithoutAConfig) {
  checkpoint_.config.clear();
  KeepIndex();
  checkpoint_.DropContaining(kNorm);
  EXPECT_THAT(Lines(Findings()),
              ElementsAre("missing-config config.json ",
                          std::string("tensor-not-in-shard ") + kTinyShard1 + " " + kNorm,
                          std::string("wrong-total-size ") + kIndex + " "));
  checkpoint_.config = "{";
  const formats::Findings findings = Findings();
  EXPECT_THAT(findings[0].kind, "unreadable-config");
  EXPECT_THAT(findings[0].message, AllOf(StartsWith("config.json: "), HasSubstr("download")));
  EXPECT_EQ(findings.size(), 3U);
}

TEST_F(StructureFilesTest, WarnsOfAnUnfinishedConversion) {
  Write();
  WriteFile(in() / ".dsv3-journal", "");
  WriteFile(in() / "x.safetensors.partial", "");
  EXPECT_THAT(Lines(Verify().verification.findings),
              ElementsAre("warning unfinished-conversion .dsv3-journal ",
                          "warning unfinished-conversion x.safetensors.partial "));
}

TEST_F(StructureFilesTest, RefusesWhereThereIsNothingToJudge) {
  const auto code = [&] { return ErrorOf([&] { Verify(); }).code(); };
  EXPECT_EQ(code(), ErrorCode::kBadInput);  // no such directory
  fs::create_directory(in());
  EXPECT_EQ(code(), ErrorCode::kBadInput);
  WriteFile(in() / "config.json", checkpoint_.config);
  EXPECT_EQ(code(), ErrorCode::kBadInput);
  WriteFile(in() / kIndex, "{");
  EXPECT_EQ(code(), ErrorCode::kBadInput);
  checkpoint_.index_text = R"({"weight_map":{}})";
  Write();
  EXPECT_EQ(code(), ErrorCode::kBadInput);
}

// A tensor is looked up once in each place, however many findings there are.
TEST_F(StructureFilesTest, ListsAHundredThousandFindings) {
  checkpoint_ = SmallFp8Checkpoint();
  constexpr std::size_t kCount = 50'000;
  std::string map;
  for (std::size_t i = 0; i < kCount; ++i) {
    const std::string name = "t" + std::to_string(i);
    checkpoint_.tensors.push_back(
        {i % 2 == 0 ? kTinyShard1 : kTinyShard2, name, Dtype::kU8, {0}, ""});
  }
  checkpoint_.index_text = checkpoint_.IndexText();
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.shape != formats::Shape{0}) continue;
    const bool first = tensor.shard == kTinyShard1;
    tensor.shard = first ? kTinyShard2 : kTinyShard1;
  }
  for (std::size_t i = 0; i < kCount; ++i) {
    checkpoint_.tensors.push_back({kTinyShard3, "u" + std::to_string(i), Dtype::kU8, {0}, ""});
  }
  EXPECT_EQ(Findings().size(), 2 * kCount + 1);
}

}  // namespace
}  // namespace dsv3::testing
