// Parts of a checkpoint that are not there: tensors of whole files, and ends of files.

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/completeness.h"
#include "convert/recipes/pack.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/convert/verify/structure_test.h"
#include "tests/formats/expect_error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::Lines;
using ::testing::Not;
using testing::WriteFile;

constexpr const char* kIndex = "model.safetensors.index.json";

class MissingPartsTest : public ::testing::Test {
 protected:
  formats::Findings Judge() const { return JudgeCompleteness(in_); }
  static std::string Codes(const Error& error) {
    return std::string(ErrorCodeName(error.code())) + ": " + error.message();
  }
  // What making checksums says.
  std::string Create() const {
    return Codes(ErrorOf([&] { testing::Create(in_, true); }));
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  fs::path in_ = dir_ / "in";
};

// Whatever the list says of the files that it names.
TEST_F(MissingPartsTest, AListThatDoesNotNameTheIndexLeavesMissingTensorsToTheConfig) {
  testing::TinyCheckpoint model = testing::SmallModelCheckpoint();
  model.Drop("model.norm.weight");
  model.Write(in_);
  const auto sum = [&](const std::string& name) {
    return testing::Sha256Of(testing::ReadFile(in_ / name)) + "  " + name + "\n";
  };
  WriteFile(in_ / "SHA256SUMS", sum("config.json"));
  const auto found = Lines(testing::Check(in_).verification.findings);
  EXPECT_THAT(found, Contains("missing-tensor config.json model.norm.weight"));
  EXPECT_THAT(found, Contains(std::string("warning extra-file ") + kIndex + " "));
  // An index that is not the one that was recorded says nothing.
  WriteFile(in_ / "SHA256SUMS", std::string(64, '0') + "  " + kIndex + "\n");
  EXPECT_THAT(Lines(testing::Check(in_).verification.findings),
              Not(Contains(HasSubstr("missing-tensor"))));
}

// Where the config predicts nothing, and for scales, which it does not predict.
TEST_F(MissingPartsTest, TheIndexSaysWhichTensorsThereMustBe) {
  testing::TinyCheckpoint model = testing::SmallFp8Checkpoint();
  model.Write(in_);
  ASSERT_THAT(Lines(Judge()), IsEmpty());
  const std::string index = testing::ReadFile(in_ / kIndex);
  const std::size_t map = index.find("weight_map");
  ASSERT_NE(map, std::string::npos);
  std::string more = index;
  more.insert(more.find('{', map) + 1,
              std::string(R"("a.lost.weight_scale_inv": ")") + kTinyShard1 + R"(", )");
  WriteFile(in_ / kIndex, more);
  const formats::Findings findings = Judge();
  ASSERT_THAT(Lines(findings),
              ElementsAre(std::string("missing-tensor ") + kIndex + " a.lost.weight_scale_inv"));
  EXPECT_THAT(findings[0].message, HasSubstr("it lists 1 tensor that no file of the checkpoint "
                                             "holds, such as 'a.lost.weight_scale_inv'"));
  EXPECT_THAT(Create(), HasSubstr("it lists 1 tensor"));
  WriteFile(in_ / "SHA256SUMS",
            testing::Sha256Of(testing::ReadFile(in_ / kTinyShard1)) + "  " + kTinyShard1 + "\n");
  EXPECT_THAT(Lines(testing::Check(in_).verification.findings), Contains(Lines(findings)[0]));
}

TEST_F(MissingPartsTest, AShardThatIsCutOffOrNoFileIsNotWhole) {
  testing::SmallFp8Checkpoint().Write(in_);
  const std::string unreadable = std::string("unreadable-shard ") + kTinyShard2 + " ";
  const std::string whole = testing::ReadFile(in_ / kTinyShard2);
  for (const std::size_t bytes : {whole.size() - 1, std::size_t{9}, std::size_t{0}}) {
    WriteFile(in_ / kTinyShard2, whole.substr(0, bytes));
    EXPECT_THAT(Lines(Judge()), ElementsAre(unreadable)) << bytes;
    EXPECT_THAT(Create(), HasSubstr("bad-input: ")) << bytes;
  }
  fs::remove(in_ / kTinyShard2);
  fs::create_directory(in_ / kTinyShard2);
  EXPECT_THAT(Lines(Judge()), ElementsAre(unreadable));
  EXPECT_THAT(Create(), HasSubstr("making checksums is refused"));
  fs::remove(in_ / kTinyShard2);
  WriteFile(in_ / kTinyShard2, whole);
  EXPECT_THAT(Lines(Judge()), IsEmpty());
}

// The comparison has said so already.
TEST_F(MissingPartsTest, AShardThatDiffersIsNotCalledUnreadableAgain) {
  testing::SmallFp8Checkpoint().Write(in_);
  WriteFile(in_ / "SHA256SUMS",
            testing::Sha256Of(testing::ReadFile(in_ / kTinyShard1)) + "  " + kTinyShard1 + "\n");
  fs::resize_file(in_ / kTinyShard1, fs::file_size(in_ / kTinyShard1) - 1);
  const auto found = Lines(testing::Check(in_).verification.findings);
  EXPECT_THAT(found, Contains(std::string("wrong-digest ") + kTinyShard1 + " "));
  EXPECT_THAT(found, Not(Contains(HasSubstr("unreadable-shard"))));
}

// A signature would call it whole for ever.
TEST_F(MissingPartsTest, PackedFilesAreThereWithTheirSizes) {
  testing::SmallFp8Checkpoint().Write(dir_ / "original");
  testing::Conversion(dir_ / "original", in_, PackConversion()).Run();
  ASSERT_THAT(Lines(Judge()), IsEmpty());
  const std::string name = std::string(kTinyShard1) + ".packed";
  fs::resize_file(in_ / name, fs::file_size(in_ / name) - 1);
  EXPECT_THAT(Lines(Judge()), ElementsAre("wrong-size " + name + " "));
  fs::remove(in_ / name);
  EXPECT_THAT(Lines(Judge()), ElementsAre("missing-shard " + name + " "));
  fs::create_symlink("gone", in_ / name);
  EXPECT_THAT(Judge().at(0).message, HasSubstr("it is a dead link, a symlink to gone"));
  WriteFile(in_ / "packed.json", "{}");
  EXPECT_THAT(Lines(Judge()), ElementsAre("unreadable-index packed.json "));
}

TEST_F(MissingPartsTest, RankFilesAreThereWithTheirSizes) {
  testing::SmallModelCheckpoint().Write(dir_ / "original");
  ReshardOptions options;
  options.parallel.ep = 2;
  testing::RunReshard(dir_ / "original", in_, options);
  ASSERT_THAT(Lines(Judge()), IsEmpty());
  const std::string name = "model-rank-1-part-0.safetensors";
  fs::resize_file(in_ / name, fs::file_size(in_ / name) - 1);
  EXPECT_THAT(Lines(Judge()), ElementsAre("wrong-size " + name + " "));
  // The comparison with the manifest says it, and once.
  EXPECT_THAT(testing::Kinds(testing::Check(in_, true).verification),
              ElementsAre("wrong-size", "unreadable-header"));
}

TEST_F(MissingPartsTest, AnIndexWithFaultsDoesNotSayWhatThereMustBe) {
  testing::SmallFp8Checkpoint().Write(in_);
  std::string index = testing::ReadFile(in_ / kIndex);
  const std::size_t at = index.find(kTinyShard1);
  ASSERT_NE(at, std::string::npos);
  WriteFile(in_ / kIndex, index.insert(at, "../"));
  EXPECT_THAT(Lines(Judge()), Contains(HasSubstr(std::string("unsafe-shard-path ") + kIndex)));
  EXPECT_THAT(Create(), HasSubstr("which leads out of the directory"));
}

}  // namespace
}  // namespace dsv3::convert
