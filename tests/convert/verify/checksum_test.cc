#include "convert/verify/checksum.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/manifest.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::ChecksumTest;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::kTinyShard2;
using ::testing::Not;
using testing::ReadFile;
using ::testing::UnorderedElementsAre;
using testing::WriteFile;

TEST_F(ChecksumTest, CreatedChecksumsAreRightAndComplete) {
  const CreateChecksumsReport created = Create();
  EXPECT_TRUE(created.written);
  EXPECT_FALSE(created.kept_provenance);
  EXPECT_EQ(created.tensors, testing::SmallFp8Checkpoint().tensors.size());
  EXPECT_EQ(created.content_digest, Manifest().content_digest);
  const CheckChecksumsReport checked = Check();
  EXPECT_THAT(checked.verification.findings, IsEmpty());
  EXPECT_EQ(checked.basis, CheckChecksumsReport::Basis::kManifest);
  EXPECT_EQ(checked.basis_name, "checkpoint.manifest.json");
  EXPECT_EQ(checked.files, created.files);
  EXPECT_EQ(checked.bytes, created.bytes);
  EXPECT_EQ(checked.verification.files.size(), created.files);
}

TEST_F(ChecksumTest, TheRealSha256sumAcceptsTheFile) {
  for (const char* name : {"with space", "back\\slash", "new\nline", "carriage\rreturn", "*star"}) {
    WriteFile(model_ / name, name);
  }
  Create();
  const std::string command =
      "cd '" + model_.string() + "' && sha256sum --strict --quiet -c SHA256SUMS >/dev/null 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0);
  EXPECT_THAT(Kinds(), IsEmpty());
  Spoil("new\nline", 0);
  EXPECT_NE(std::system(command.c_str()), 0);
}

TEST_F(ChecksumTest, SumsListTheManifestAndNotTheReverse) {
  Create();
  EXPECT_THAT(ReadFile(model_ / "SHA256SUMS"), HasSubstr("  checkpoint.manifest.json\n"));
  EXPECT_THAT(ReadFile(model_ / "SHA256SUMS"), Not(HasSubstr("  SHA256SUMS\n")));
  EXPECT_EQ(Manifest().FindFile("SHA256SUMS"), nullptr);
}

TEST_F(ChecksumTest, FilesOfChecksumsSignaturesHubAndGitAreNeverExtra) {
  Create();
  for (const char* name : {"model.sig", ".git/config", ".cache/huggingface/download/x.metadata"}) {
    WriteFile(model_ / name, "x");
  }
  EXPECT_THAT(Kinds(), IsEmpty());
  EXPECT_THAT(Kinds(true), IsEmpty());
  EXPECT_TRUE(Create().written);
  EXPECT_THAT(ReadFile(model_ / "SHA256SUMS"), Not(HasSubstr("model.sig")));
  WriteFile(model_ / ".gitattributes", "x");
  WriteFile(model_ / ".cache/other", "x");
  EXPECT_THAT(Kinds(), ElementsAre("extra-file", "extra-file"));
}

TEST_F(ChecksumTest, ContentDigestStaysWhenWeightsAreSharedOutDifferently) {
  Create();
  const std::string digest = Manifest().content_digest;
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  for (testing::TinyTensor& tensor : other.tensors) tensor.shard = "model.safetensors";
  std::reverse(other.tensors.begin(), other.tensors.end());
  other.Write(dir_ / "other");
  EXPECT_EQ(testing::Create(dir_ / "other", false).content_digest, digest);
  other.tensors[0].bytes[0] ^= 1;
  other.Write(dir_ / "changed");
  EXPECT_NE(testing::Create(dir_ / "changed", false).content_digest, digest);
}

TEST_F(ChecksumTest, ConversionsWriteTheManifestThatCreateWouldWrite) {
  const testing::Conversion conversion(model_, dir_ / "out");
  conversion.Run();
  const std::string manifest = ReadFile(dir_ / "out" / formats::kManifestName);
  EXPECT_THAT(testing::Check(dir_ / "out").verification.findings, IsEmpty());
  const CreateChecksumsReport created = testing::Create(dir_ / "out", false);
  EXPECT_TRUE(created.written);
  EXPECT_TRUE(created.kept_provenance);
  EXPECT_EQ(ReadFile(dir_ / "out" / formats::kManifestName), manifest);
  EXPECT_EQ(conversion.Run().outcome, ConversionReport::Outcome::kNothingToDo);
}

TEST_F(ChecksumTest, NamesTheTensorWhoseBytesDiffer) {
  Create();
  const std::string shard = ReadFile(model_ / kTinyShard2);
  Spoil(kTinyShard2, shard.size() - 1);
  const CheckChecksumsReport checked = Check();
  EXPECT_THAT(testing::Kinds(checked.verification),
              ElementsAre("wrong-digest", "wrong-tensor-digest"));
  const formats::Finding& finding = checked.verification.findings.back();
  EXPECT_EQ(finding.file, kTinyShard2);
  EXPECT_EQ(finding.tensor, Manifest().tensors.back().file == kTinyShard2
                                ? Manifest().tensors.back().name
                                : finding.tensor);
  EXPECT_FALSE(finding.tensor.empty());
  // Only the tensors of the shard that differs were read again.
  EXPECT_LT(checked.bytes, Create(true).bytes + shard.size());
  EXPECT_FALSE(checked.verification.Passes(false));
}

TEST_F(ChecksumTest, AnUnreadableHeaderIsAFindingAndItsTensorsAreCheckedAllTheSame) {
  Create();
  Spoil(kTinyShard1, 9);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest", "unreadable-header"));
  EXPECT_THAT(Kinds(true), ElementsAre("unreadable-header"));
  Spoil(kTinyShard1, ReadFile(model_ / kTinyShard1).size() - 1);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest", "unreadable-header", "wrong-tensor-digest"));
}

TEST_F(ChecksumTest, NamesTheTensorWhoseHeaderEntryDiffers) {
  Create();
  std::string shard = ReadFile(model_ / kTinyShard1);
  shard.replace(shard.find("\"norm.weight\""), 13, "\"form.weight\"");
  WriteFile(model_ / kTinyShard1, shard);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest", "missing-tensor", "extra-tensor"));
  EXPECT_THAT(Kinds(true), ElementsAre("missing-tensor", "extra-tensor"));
  shard.replace(shard.find("\"form.weight\""), 13, "\"norm.weight\"");
  shard.replace(shard.find("BF16"), 4, "F16 ");
  shard.replace(shard.find("\"F16 \""), 6, "\"F16\" ");
  WriteFile(model_ / kTinyShard1, shard);
  EXPECT_THAT(Kinds(true), ElementsAre("wrong-tensor-header"));
}

TEST_F(ChecksumTest, AHeaderThatSaysTheSameInOtherWordsDiffersToo) {
  Create();
  std::string shard = ReadFile(model_ / kTinyShard1);
  shard.replace(shard.find("\"pt\""), 4, "\"tf\"");
  WriteFile(model_ / kTinyShard1, shard);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest", "wrong-header"));
  EXPECT_THAT(Kinds(true), ElementsAre("wrong-header"));
}

TEST_F(ChecksumTest, ATruncatedShardNamesTheTensorsThatWereCut) {
  Create();
  fs::resize_file(model_ / kTinyShard2, fs::file_size(model_ / kTinyShard2) - 1);
  const std::vector<std::string> kinds = Kinds();
  EXPECT_THAT(kinds, Contains("wrong-size"));
  EXPECT_THAT(kinds, Contains("unreadable-header"));
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "wrong-tensor-digest"), 1);
  EXPECT_THAT(Kinds(true), ElementsAre("wrong-size", "unreadable-header"));
  fs::resize_file(model_ / kTinyShard2, 0);
  EXPECT_THAT(Kinds(true), Contains("wrong-size"));
}

TEST_F(ChecksumTest, ComparesTensorsByNameWhereTheHeaderIsLonger) {
  Create();
  testing::TinyCheckpoint checkpoint = testing::SmallFp8Checkpoint();
  checkpoint.Add(kTinyShard1, "one.more", formats::Dtype::kF32, {2});
  checkpoint.Find("norm.weight").bytes[3] ^= 4;
  WriteFile(model_ / kTinyShard1, checkpoint.ShardBytes(kTinyShard1));
  const Verification found = Check().verification;
  std::vector<std::string> wrong;
  for (const formats::Finding& finding : found.findings) {
    if (finding.kind == "wrong-tensor-digest") wrong.push_back(finding.tensor);
  }
  EXPECT_THAT(wrong, ElementsAre("norm.weight"));
  EXPECT_THAT(testing::Kinds(found), Contains("extra-tensor"));
}

TEST_F(ChecksumTest, FindsMissingAndExtraFiles) {
  Create();
  fs::remove(model_ / "config.json");
  WriteFile(model_ / "sub/extra", "x");
  fs::create_symlink("nowhere", model_ / "link");
  const CheckChecksumsReport checked = Check();
  EXPECT_THAT(testing::Kinds(checked.verification),
              ElementsAre("missing-file", "extra-file", "extra-file"));
  EXPECT_EQ(checked.verification.findings[0].file, "config.json");
  EXPECT_EQ(checked.verification.findings[2].file, "sub/extra");
  EXPECT_EQ(Kinds(true), testing::Kinds(checked.verification));
}

TEST_F(ChecksumTest, QuickSeesSizesAndHeadersOnly) {
  Create();
  Spoil(kTinyShard1, ReadFile(model_ / kTinyShard1).size() - 1);
  EXPECT_THAT(Kinds(true), IsEmpty());
  WriteFile(model_ / "config.json", "{}");
  EXPECT_THAT(Kinds(true), ElementsAre("wrong-size"));
}

TEST_F(ChecksumTest, AFileThatCannotBeReadIsAFinding) {
  Create();
  fs::remove(model_ / "config.json");
  fs::create_directory(model_ / "config.json");
  EXPECT_THAT(Kinds(), ElementsAre("missing-file"));
}

TEST_F(ChecksumTest, UsesWhatThereIsInTheDocumentedOrder) {
  EXPECT_EQ(ErrorOf([&] { Check(); }).code(), ErrorCode::kBadInput);
  Create();
  fs::rename(model_ / formats::kManifestName, dir_ / "elsewhere.json");
  // SHA256SUMS lists the manifest.
  EXPECT_THAT(Kinds(), ElementsAre("missing-file"));
  const CheckChecksumsReport given = Check(false, dir_ / "elsewhere.json");
  EXPECT_THAT(given.verification.findings, IsEmpty());
  EXPECT_EQ(given.basis, CheckChecksumsReport::Basis::kManifest);
  EXPECT_EQ(given.basis_name, (dir_ / "elsewhere.json").string());
  fs::rename(dir_ / "elsewhere.json", model_ / formats::kManifestName);
  WriteFile(model_ / "SHA256SUMS", "rubbish\n");
  EXPECT_EQ(Check().basis, CheckChecksumsReport::Basis::kManifest);
  EXPECT_THAT(Kinds(), IsEmpty());
}

TEST_F(ChecksumTest, ChecksAgainstSha256SumsOfAnybody) {
  const std::string command =
      "cd '" + model_.string() + "' && find . -type f | xargs sha256sum > ../SUMS";
  ASSERT_EQ(std::system(command.c_str()), 0);
  fs::rename(dir_ / "SUMS", model_ / "SHA256SUMS");
  CheckChecksumsReport checked = Check();
  EXPECT_THAT(checked.verification.findings, IsEmpty());
  EXPECT_EQ(checked.basis, CheckChecksumsReport::Basis::kSha256Sums);
  EXPECT_EQ(checked.basis_name, "SHA256SUMS");
  Spoil(kTinyShard1, 100);
  EXPECT_THAT(Kinds(), Contains("wrong-digest"));
  WriteFile(model_ / "SHA256SUMS", ReadFile(model_ / "SHA256SUMS") + "rubbish\n" +
                                       std::string(64, 'a') + "  ../outside\n");
  EXPECT_THAT(Kinds(true), Contains("bad-sums-line").Times(2));
}

TEST_F(ChecksumTest, AnUnreadableManifestIsAFindingWhereSumsRemain) {
  Create();
  WriteFile(model_ / formats::kManifestName, "{");
  EXPECT_THAT(Kinds(), UnorderedElementsAre("unreadable-manifest", "wrong-digest"));
  EXPECT_EQ(Check().basis, CheckChecksumsReport::Basis::kSha256Sums);
  fs::remove(model_ / "SHA256SUMS");
  EXPECT_EQ(ErrorOf([&] { Check(); }).code(), ErrorCode::kBadInput);
  EXPECT_EQ(ErrorOf([&] { Check(false, dir_ / "none.json"); }).code(), ErrorCode::kBadInput);
}

TEST_F(ChecksumTest, AManifestThatWasChangedContradictsItself) {
  Create();
  std::string text = ReadFile(model_ / formats::kManifestName);
  const std::size_t at = text.rfind("\"xxh3_128\":\"") + 12;
  text[at] = text[at] == '0' ? '1' : '0';
  WriteFile(model_ / formats::kManifestName, text);
  EXPECT_THAT(Kinds(), UnorderedElementsAre("outdated-sums", "inconsistent-manifest"));
}

}  // namespace
}  // namespace dsv3::convert
