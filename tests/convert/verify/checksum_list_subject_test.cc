#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/convert/verify/structure_test.h"

namespace dsv3::convert {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::Lines;
using testing::ReadFile;
using testing::Sha256Of;
using ::testing::StartsWith;
using testing::WriteFile;

// Which file a list, or a line of it, is about.
class ChecksumListSubjectTest : public testing::ChecksumTest {
 protected:
  // That the list gives the first shard its digest, and no other file one.
  void ExpectIsOfShard1(const std::string& list, const std::string& behind = "\n") {
    WriteFile(model_ / list, Sha256Of(ReadFile(model_ / kTinyShard1)) + behind);
    const CheckChecksumsReport sound = Check();
    EXPECT_EQ(sound.files, 1U) << list;
    EXPECT_TRUE(sound.verification.Passes(false)) << list;
    Spoil(kTinyShard1, 100);
    EXPECT_THAT(Lines(Check().verification.findings),
                Contains(std::string("wrong-digest ") + kTinyShard1 + " "))
        << list;
    Spoil(kTinyShard1, 100);
    std::filesystem::remove(model_ / list);
  }
};

TEST_F(ChecksumListSubjectTest, TheNameMayLackTheSuffix) {
  const std::string name = kTinyShard1;
  const std::string stem = name.substr(0, name.rfind('.'));
  ExpectIsOfShard1(stem + ".sha256");
  ExpectIsOfShard1(stem + ".SHA256SUM", "  " + name + "\n");
}

TEST_F(ChecksumListSubjectTest, ListsMayHaveAFolderOfTheirOwn) {
  const std::string name = kTinyShard1;
  std::filesystem::create_directory(model_ / "sums");
  ExpectIsOfShard1("sums/" + name + ".sha256");
  ExpectIsOfShard1("sums/" + name + ".sha256", "  " + name + "\n");
  ExpectIsOfShard1("sums/" + name.substr(0, name.rfind('.')) + ".sha256");
  // A file that is there under neither name is missing.
  WriteFile(model_ / "sums/other.txt.sha256", std::string(64, 'a'));
  EXPECT_THAT(Lines(Check().verification.findings), Contains("missing-file sums/other.txt "));
}

TEST_F(ChecksumListSubjectTest, AListSaysNothingOfItself) {
  const std::string empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  std::string lines = empty + "  ./SHA256SUMS\n";
  for (const auto& [name, content] : testing::ReadTree(model_)) {
    if (!name.ends_with('/')) lines += Sha256Of(content) + "  " + name + "\n";
  }
  WriteFile(model_ / "SHA256SUMS", lines);
  EXPECT_THAT(Lines(Check().verification.findings), IsEmpty());
  EXPECT_TRUE(Create().written);
  // Another list of the same name is a file like others.
  WriteFile(model_ / "SHA256SUMS", "x");
  std::filesystem::remove(model_ / "checkpoint.manifest.json");
  WriteFile(dir_ / "SHA256SUMS", lines);
  EXPECT_THAT(Lines(Check(false, dir_ / "SHA256SUMS").verification.findings),
              Contains(StartsWith("wrong-digest SHA256SUMS ")));
}

}  // namespace
}  // namespace dsv3::convert
