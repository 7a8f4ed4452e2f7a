#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/io/file_system.h"
#include "formats/manifest.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/counting_sink.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/other_user.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::ChecksumTest;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::kTinyShard2;
using ::testing::Not;
using testing::ReadFile;
using testing::WriteFile;

using CreateChecksumsTest = ChecksumTest;

TEST_F(CreateChecksumsTest, ASecondCreateRefusesADifferenceAndWritesNothing) {
  Create();
  const auto before = testing::ReadTree(model_);
  EXPECT_TRUE(Create().written);
  EXPECT_EQ(testing::ReadTree(model_), before);
  Spoil(kTinyShard1, 9);  // not even a header that cannot be read ends in an error
  const CreateChecksumsReport broken = Create();
  EXPECT_FALSE(broken.written);
  EXPECT_THAT(testing::Kinds(broken.verification),
              ElementsAre("wrong-digest", "unreadable-header"));
  EXPECT_EQ(ErrorOf([&] { Create(true); }).code(), ErrorCode::kBadInput);
  Spoil(kTinyShard1, 9);
  WriteFile(model_ / "NEWS.md", "new");
  const auto changed = testing::ReadTree(model_);
  const CreateChecksumsReport refused = Create();
  EXPECT_FALSE(refused.written);
  EXPECT_THAT(testing::Kinds(refused.verification), ElementsAre("extra-file"));
  EXPECT_EQ(testing::ReadTree(model_), changed);
  const CreateChecksumsReport overwritten = Create(true);
  EXPECT_TRUE(overwritten.written);
  EXPECT_THAT(testing::Kinds(overwritten.verification), ElementsAre("extra-file"));
  EXPECT_THAT(Kinds(), IsEmpty());
}

TEST_F(CreateChecksumsTest, OverwritingKeepsTheProvenanceOfWhatIsTheSame) {
  const testing::Conversion conversion(model_, dir_ / "out");
  conversion.Run();
  model_ = dir_ / "out";
  const formats::Manifest before = Manifest();
  Spoil(kTinyShard2, ReadFile(model_ / kTinyShard2).size() - 1);
  WriteFile(model_ / "NEWS.md", "new");
  EXPECT_FALSE(Create().written);
  EXPECT_TRUE(Create(true).kept_provenance);
  const formats::Manifest after = Manifest();
  EXPECT_EQ(formats::ManifestJobText(after.job), formats::ManifestJobText(before.job));
  ASSERT_EQ(after.tensors.size(), before.tensors.size());
  int changed = 0;
  for (std::size_t i = 0; i < after.tensors.size(); ++i) {
    const bool same = after.tensors[i].xxh3 == before.tensors[i].xxh3;
    EXPECT_EQ(after.tensors[i].rule, same ? before.tensors[i].rule : "");
    EXPECT_EQ(after.tensors[i].sources.size(), same ? before.tensors[i].sources.size() : 0U);
    changed += same ? 0 : 1;
  }
  EXPECT_EQ(changed, 1);
  EXPECT_FALSE(after.FindFile("NEWS.md")->by_recipe);
  EXPECT_FALSE(after.FindFile(kTinyShard2)->by_recipe);
  EXPECT_TRUE(after.FindFile(kTinyShard1)->by_recipe);
  EXPECT_THAT(Kinds(), IsEmpty());
}

TEST_F(CreateChecksumsTest, AConversionReplacesCheckedFilesWithOverwriteAlone) {
  Create();
  const auto before = testing::ReadTree(model_);
  testing::SmallFp8Checkpoint().Write(dir_ / "in");
  testing::Conversion conversion(dir_ / "in", model_);
  EXPECT_EQ(ErrorOf([&] { conversion.Run(); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(testing::ReadTree(model_), before);
  conversion.request.run.overwrite = true;
  conversion.Run();
  testing::Conversion elsewhere(dir_ / "in", dir_ / "elsewhere");
  elsewhere.Run();
  const auto after = testing::ReadTree(model_);
  for (const auto& [name, content] : testing::ReadTree(dir_ / "elsewhere")) {
    EXPECT_TRUE(after.at(name) == content) << name;
  }
}

TEST_F(CreateChecksumsTest, ChecksAndCompletesTheManifestOfAConversionWithoutChecksums) {
  testing::Conversion conversion(model_, dir_ / "out");
  conversion.request.run.checksum = ChecksumMode::kNone;
  conversion.Run();
  model_ = dir_ / "out";
  EXPECT_THAT(Kinds(), Each(std::string("unverified-file")));
  EXPECT_TRUE(Check().verification.Passes(false));
  Spoil(kTinyShard1, ReadFile(model_ / kTinyShard1).size() - 1);
  EXPECT_THAT(Kinds(), Contains("wrong-tensor-digest"));
  EXPECT_FALSE(Create().written);
  Spoil(kTinyShard1, ReadFile(model_ / kTinyShard1).size() - 1);
  EXPECT_TRUE(Create().written);
  EXPECT_THAT(Kinds(), IsEmpty());
}

TEST_F(CreateChecksumsTest, RefusesWhatItCannotDescribe) {
  EXPECT_EQ(ErrorOf([&] { testing::Create(dir_ / "none", false); }).code(), ErrorCode::kBadInput);
  fs::create_directory(dir_ / "empty");
  EXPECT_EQ(ErrorOf([&] { testing::Create(dir_ / "empty", false); }).code(), ErrorCode::kBadInput);
  EXPECT_EQ(ErrorOf([&] { testing::Create(model_ / kTinyShard1, false); }).code(),
            ErrorCode::kUsage);
  fs::create_symlink("nowhere", model_ / "link");
  EXPECT_THAT(ErrorOf([&] { Create(); }).message(),
              AllOf(HasSubstr("leads nowhere"), HasSubstr("repair the link, or remove it where")));
  fs::remove(model_ / "link");
  WriteFile(model_ / "\xff", "x");
  EXPECT_THAT(ErrorOf([&] { Create(); }).message(), HasSubstr("UTF-8"));
  fs::remove(model_ / "\xff");
  WriteFile(model_ / ".dsv3-journal", "x");
  EXPECT_EQ(ErrorOf([&] { Create(); }).code(), ErrorCode::kUsage);
  fs::remove(model_ / ".dsv3-journal");
  Spoil(kTinyShard1, 9);
  EXPECT_EQ(ErrorOf([&] { Create(); }).code(), ErrorCode::kBadInput);
  EXPECT_FALSE(fs::exists(model_ / "SHA256SUMS"));
}

TEST_F(CreateChecksumsTest, NothingIsWrittenAfterAnInterruption) {
  StopToken stop;
  stop.RequestStop();
  ProgressSink progress;
  testing::QuickFileSystem file_system;
  CreateChecksumsRequest request;
  request.directory = model_;
  const Error error = ErrorOf([&] { CreateChecksums(request, file_system, progress, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
  EXPECT_FALSE(fs::exists(model_ / formats::kManifestName));
}

TEST_F(CreateChecksumsTest, TheManifestIsDurableBeforeTheSums) {
  testing::QuickFileSystem inner;
  testing::RecordingFileSystem file_system(inner, model_);
  ProgressSink progress;
  const StopToken stop;
  CreateChecksumsRequest request;
  request.directory = model_;
  CreateChecksums(request, file_system, progress, stop);
  std::vector<std::string> renamed;
  for (const testing::Operation& operation : file_system.operations()) {
    if (operation.kind == testing::Operation::Kind::kRename) {
      renamed.push_back(operation.to);
    }
    if (operation.kind == testing::Operation::Kind::kSyncDirectory) renamed.push_back("sync");
  }
  EXPECT_THAT(renamed, ElementsAre("checkpoint.manifest.json", "sync", "SHA256SUMS", "sync"));
}

// Says whether anything was read.
class ReadSink : public ProgressSink {
 public:
  void OnPhase(std::string_view phase, std::uint64_t total_bytes) override {
    (void)total_bytes;
    if (phase == "hashing") hashed = true;
  }
  bool hashed = false;
};

TEST_F(CreateChecksumsTest, AFileThatCannotBeReadIsFoundBeforeTheOthersAreRead) {
  for (const fs::path& open : {dir_.path(), model_}) fs::permissions(open, fs::perms::all);
  fs::permissions(model_ / "README.md", fs::perms::none);
  CreateChecksumsRequest request;
  request.directory = model_;
  testing::CountingSink progress;
  const Error error = ErrorOf([&] {
    const testing::OtherUser user;
    testing::QuickFileSystem file_system;
    CreateChecksums(request, file_system, progress, StopToken());
  });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(), HasSubstr("README.md"));
  EXPECT_EQ(progress.phase(), "");
}

TEST_F(CreateChecksumsTest, WhetherTheFilesCanBeWrittenIsTriedBeforeAnythingIsRead) {
  testing::QuickFileSystem quick;
  testing::FaultyFileSystem read_only(quick, 0, EROFS,
                                      testing::FaultyFileSystem::Failing::kFromThenOn);
  ReadSink progress;
  const StopToken stop;
  CreateChecksumsRequest request;
  request.directory = model_;
  const Error error = ErrorOf([&] { CreateChecksums(request, read_only, progress, stop); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(), AllOf(HasSubstr("read-only"), HasSubstr("--output DIR")));
  EXPECT_FALSE(progress.hashed);
  fs::create_directory(model_ / "SHA256SUMS");
  EXPECT_EQ(ErrorOf([&] { Create(); }).code(), ErrorCode::kUsage);
}

TEST_F(CreateChecksumsTest, FilesBesideTheModelNeedNoHeader) {
  WriteFile(model_ / "._model.safetensors", "\0\5\x16\7");
  WriteFile(model_ / "model-Q9.gguf", "GGUF?");
  const CreateChecksumsReport created = Create();
  EXPECT_TRUE(created.written);
  EXPECT_THAT(testing::Kinds(created.verification), ElementsAre("unreadable-header"));
  EXPECT_EQ(created.verification.findings[0].file, "model-Q9.gguf");
  EXPECT_THAT(Kinds(), IsEmpty());
  Spoil("model-Q9.gguf", 4);
  EXPECT_THAT(Kinds(), Contains("wrong-digest"));
  // Where there is nothing else it is the model.
  fs::remove_all(model_);
  WriteFile(model_ / "model-Q9.gguf", "GGUF?");
  EXPECT_EQ(ErrorOf([&] { Create(); }).code(), ErrorCode::kBadInput);
}

class ChecksumsElsewhereTest : public ChecksumTest {
 protected:
  CreateChecksumsReport CreateIn(const fs::path& output, bool overwrite = false) {
    CreateChecksumsRequest request;
    request.directory = model_;
    request.output = output;
    request.overwrite = overwrite;
    testing::QuickFileSystem file_system;
    ProgressSink progress;
    const StopToken stop;
    return CreateChecksums(request, file_system, progress, stop);
  }
  const fs::path sums_ = dir_ / "new/sums";
};

TEST_F(ChecksumsElsewhereTest, TheModelIsLeftAsItIs) {
  const std::string before = testing::DetailedListing(model_);
  const CreateChecksumsReport created = CreateIn(sums_);
  EXPECT_TRUE(created.written);
  EXPECT_EQ(created.output, sums_);
  EXPECT_EQ(testing::DetailedListing(model_), before);
  const CheckChecksumsReport checked = Check(false, sums_ / formats::kManifestName);
  EXPECT_THAT(checked.verification.findings, IsEmpty());
  EXPECT_EQ(checked.files, created.files);
  const std::string command = "cd '" + model_.string() + "' && sha256sum --strict --quiet -c '" +
                              (sums_ / "SHA256SUMS").string() + "' >/dev/null 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST_F(ChecksumsElsewhereTest, WhatIsThereIsCheckedFirst) {
  CreateIn(sums_);
  const auto before = testing::ReadTree(sums_);
  EXPECT_TRUE(CreateIn(sums_).written);
  EXPECT_EQ(testing::ReadTree(sums_), before);
  WriteFile(model_ / "config.json", "{}");
  const CreateChecksumsReport refused = CreateIn(sums_);
  EXPECT_FALSE(refused.written);
  EXPECT_THAT(testing::Kinds(refused.verification), ElementsAre("wrong-size"));
  EXPECT_EQ(testing::ReadTree(sums_), before);
  EXPECT_TRUE(CreateIn(sums_, true).written);
  // The model's own are checked, too.
  WriteFile(model_ / "config.json.sha256", std::string(64, 'a'));
  EXPECT_THAT(testing::Kinds(CreateIn(sums_ / "other").verification), Contains("wrong-digest"));
}

TEST_F(ChecksumsElsewhereTest, RefusesTheManifestOfOtherWeights) {
  CreateIn(sums_);
  const auto before = testing::ReadTree(sums_);
  testing::TinyCheckpoint other = testing::SmallFp8Checkpoint();
  for (testing::TinyTensor& tensor : other.tensors) tensor.name += "_";
  fs::remove_all(model_);
  other.Write(model_);
  const Error error = ErrorOf([&] { CreateIn(sums_); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(),
              AllOf(HasSubstr("sums/checkpoint.manifest.json: it describes other weights"),
                    HasSubstr("give --output another directory"), Not(HasSubstr("download"))));
  EXPECT_EQ(testing::ReadTree(sums_), before);
  const CreateChecksumsReport replaced = CreateIn(sums_, true);
  EXPECT_TRUE(replaced.written);
  EXPECT_TRUE(replaced.replaced);
  EXPECT_THAT(replaced.verification.findings, IsEmpty());
  EXPECT_THAT(Check(false, sums_ / formats::kManifestName).verification.findings, IsEmpty());
  // A header that cannot be read says nothing of whose weights they are.
  for (const char* shard : {kTinyShard1, kTinyShard2, testing::kTinyShard3, testing::kTinyShard4}) {
    Spoil(shard, 9);
  }
  EXPECT_THAT(testing::Kinds(CreateIn(sums_).verification), Contains("unreadable-header"));
}

TEST_F(ChecksumsElsewhereTest, ForgetsHowOtherWeightsWereMade) {
  testing::Conversion(model_, dir_ / "converted").Run();
  fs::create_directories(sums_);
  fs::copy_file(dir_ / "converted" / formats::kManifestName, sums_ / formats::kManifestName);
  EXPECT_FALSE(CreateIn(sums_, true).kept_provenance);
}

TEST_F(ChecksumsElsewhereTest, RefusesADirectoryWithAModelOfItsOwn) {
  for (const char* name : {"model.safetensors", "v3-Q8_0.gguf", "layout.json", "packed.json",
                           "model.safetensors.index.json"}) {
    WriteFile(dir_ / "other" / name, "x");
    for (const bool overwrite : {false, true}) {
      const Error error = ErrorOf([&] { CreateIn(dir_ / "other", overwrite); });
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.message(), AllOf(HasSubstr("holds another model"), HasSubstr(name)));
    }
    EXPECT_EQ(testing::ReadTree(dir_ / "other").size(), 1U);
    fs::remove_all(dir_ / "other");
  }
}

TEST_F(ChecksumsElsewhereTest, RefusesADirectoryWithinTheModelAndTheListOfSomethingElse) {
  EXPECT_EQ(ErrorOf([&] { CreateIn(model_ / "code"); }).code(), ErrorCode::kUsage);
  EXPECT_TRUE(CreateIn(model_).written);
  EXPECT_TRUE(fs::exists(model_ / "SHA256SUMS"));
  WriteFile(sums_ / "SHA256SUMS", "x");
  EXPECT_EQ(ErrorOf([&] { CreateIn(sums_); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(ReadFile(sums_ / "SHA256SUMS"), "x");
  EXPECT_TRUE(CreateIn(sums_, true).written);
}

}  // namespace
}  // namespace dsv3::convert
