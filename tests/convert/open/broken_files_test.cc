#include "convert/open/broken_files.h"

#include <filesystem>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "convert/inspect/inspection.h"
#include "convert/open/completeness.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/reshard.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
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
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::Lines;
using ::testing::Not;
using ::testing::StartsWith;
using testing::WriteFile;

constexpr std::string_view kPage = "<html>404</html>";

class BrokenFilesTest : public ::testing::Test {
 protected:
  formats::Findings Judge() const { return JudgeCompleteness(in_); }
  // What making checksums says.
  std::string Create() const {
    return testing::ErrorOf([&] { testing::Create(in_, true); }).message();
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  fs::path in_ = dir_ / "in";
};

TEST_F(BrokenFilesTest, AConfigThatIsNoObjectIsNotWhole) {
  testing::SmallFp8Checkpoint().Write(in_);
  ASSERT_THAT(Lines(Judge()), IsEmpty());
  for (const std::string_view text : {std::string_view(), kPage, std::string_view("{\"a\":"),
                                      std::string_view("[]"), std::string_view("null")}) {
    WriteFile(in_ / "config.json", text);
    EXPECT_THAT(Lines(Judge()), ElementsAre("unreadable-config config.json ")) << text;
    EXPECT_THAT(Create(), StartsWith("config.json: ")) << text;
    EXPECT_THAT(Create(), HasSubstr("making checksums is refused until then")) << text;
  }
  // What is in it is not judged here: a signature may be of any model.
  WriteFile(in_ / "config.json", R"({"model_type": "another", "rope_theta": Infinity})");
  EXPECT_THAT(Lines(Judge()), IsEmpty());
  fs::remove(in_ / "config.json");
  EXPECT_THAT(Lines(Judge()), IsEmpty());
}

TEST_F(BrokenFilesTest, ATextThatADownloadBrokeIsAnErrorOfChecksAndAWarningOfConversions) {
  testing::SmallFp8Checkpoint().Write(in_);
  WriteFile(in_ / "tokenizer.json", kPage);
  WriteFile(in_ / "._tokenizer.json", std::string("\x00\x05\x16\x07", 4));  // of macOS
  EXPECT_THAT(Lines(Judge()), ElementsAre("broken-side-file tokenizer.json "));
  EXPECT_THAT(Create(), HasSubstr("tokenizer.json: it is an HTML page"));
  EXPECT_THAT(Lines(VerifyStructure({in_}).verification.findings),
              Contains("broken-side-file tokenizer.json "));
  testing::Conversion conversion(in_, dir_ / "out", Fp8ToBf16Conversion({}));
  const ConversionReport report = conversion.Run();
  EXPECT_THAT(Lines(report.warnings), Contains("warning broken-side-file tokenizer.json "));
}

// Of whatever form the weights are.
TEST_F(BrokenFilesTest, TextsOfRankShardsAreJudgedLikeThoseOfCheckpoints) {
  testing::SmallModelCheckpoint().Write(dir_ / "original");
  WriteFile(dir_ / "original/tokenizer.json", kPage);
  const std::string warning = "warning broken-side-file tokenizer.json ";
  ReshardOptions options;
  options.parallel.ep = 2;
  EXPECT_THAT(Lines(testing::RunReshard(dir_ / "original", in_, options).conversion.warnings),
              Contains(warning));
  EXPECT_THAT(Lines(Judge()), ElementsAre("broken-side-file tokenizer.json "));
  EXPECT_THAT(Lines(VerifyStructure({in_}).verification.findings),
              ElementsAre("broken-side-file tokenizer.json "));
  EXPECT_THAT(Lines(Inspect(in_).findings), Contains(warning));
  EXPECT_THAT(Lines(testing::RunMerge(in_, dir_ / "merged").conversion.warnings),
              Contains(warning));
}

TEST_F(BrokenFilesTest, AConversionJudgesTheTextsThatItCopies) {
  testing::SmallFp8Checkpoint().Write(in_);
  WriteFile(in_ / "trainer_state.json", "");
  testing::Conversion conversion(in_, dir_ / "out", Fp8ToBf16Conversion({}));
  conversion.request.run.dry_run = true;
  const std::string warning = "warning broken-side-file trainer_state.json ";
  EXPECT_THAT(Lines(conversion.Run().warnings), Not(Contains(warning)));
  conversion.request.run.all_side_files = true;
  EXPECT_THAT(Lines(conversion.Run().warnings), Contains(warning));
}

TEST_F(BrokenFilesTest, AConversionAsksForPermissionsBeforeItWrites) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  testing::SmallFp8Checkpoint().Write(in_);
  WriteFile(in_ / "vocab.bpe", "x");
  fs::permissions(in_ / "vocab.bpe", fs::perms::none);
  testing::Conversion conversion(in_, dir_ / "out", Fp8ToBf16Conversion({}));
  for (const bool dry_run : {true, false}) {
    conversion.request.run.dry_run = dry_run;
    EXPECT_EQ(testing::ErrorOf([&] { conversion.Run(); }).code(), ErrorCode::kIo);
    EXPECT_FALSE(fs::exists(dir_ / "out"));
  }
}

// The comparison says more.
TEST_F(BrokenFilesTest, WhereThereAreChecksumsTheyAreComparedFirst) {
  testing::SmallFp8Checkpoint().Write(in_);
  testing::Create(in_, false);
  WriteFile(in_ / "config.json", "");
  const CreateChecksumsReport report = testing::Create(in_, false);
  EXPECT_FALSE(report.written);
  EXPECT_THAT(Lines(report.verification.findings), Contains("wrong-size config.json "));
  // Those that take their place are not made of a broken file.
  EXPECT_THAT(Create(), HasSubstr("making checksums is refused until then"));
}

TEST_F(BrokenFilesTest, ALayoutThatCannotBeReadIsNotWhole) {
  testing::SmallModelCheckpoint().Write(dir_ / "original");
  ReshardOptions options;
  options.parallel.ep = 2;
  testing::RunReshard(dir_ / "original", in_, options);
  const std::string layout = testing::ReadFile(in_ / "layout.json");
  for (const std::string& text : {std::string(), std::string(kPage), std::string("{}"),
                                  layout.substr(0, layout.size() - 2)}) {
    WriteFile(in_ / "layout.json", text);
    EXPECT_THAT(Lines(Judge()), ElementsAre("unreadable-index layout.json ")) << text.size();
    EXPECT_THAT(Create(), HasSubstr("layout.json: the layout is ")) << text.size();
  }
}

TEST_F(BrokenFilesTest, AFileThatLiesAloneIsNotCutOff) {
  const std::string_view no_tensors("\x08\0\0\0\0\0\0\0{}      ", 16);
  WriteFile(in_ / "one.safetensors", no_tensors);
  EXPECT_FALSE(FindUnreadableHeader(in_ / "one.safetensors", "one.safetensors"));
  WriteFile(in_ / "one.safetensors", no_tensors.substr(0, 15));
  const auto cut = FindUnreadableHeader(in_ / "one.safetensors", "one.safetensors");
  ASSERT_TRUE(cut);
  EXPECT_EQ(cut->kind, "unreadable-shard");
  EXPECT_THAT(cut->message, StartsWith("one.safetensors: "));
  EXPECT_FALSE(FindUnreadableHeader(in_ / "one.bin", "one.bin"));
  fs::remove(in_ / "one.safetensors");
  WriteFile(in_ / "one.gguf", "GGUF\x03");
  EXPECT_THAT(Lines(Judge()), ElementsAre("unreadable-shard one.gguf "));
  // Beside a checkpoint it is only a file.
  testing::SmallFp8Checkpoint().Write(in_);
  EXPECT_THAT(Lines(Judge()), IsEmpty());
}

}  // namespace
}  // namespace dsv3::convert
