#include "convert/verify/checksum_packed.h"

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/packing/packed_file.h"
#include "convert/recipes/pack.h"
#include "convert/verify/checksum.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/convert/recipes/pack_test.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kLongShard;

constexpr char kLongPacked[] = "model-00002-of-00003.safetensors.packed";

class ChecksumPackedTest : public testing::PackTest {
 protected:
  void SetUp() override {
    PackTest::SetUp();
    Pack();
  }

  CheckChecksumsReport Check(bool quick = false) const { return testing::Check(packed(), quick); }
  std::vector<std::string> Kinds(bool quick = false) const {
    return testing::Kinds(Check(quick).verification);
  }
  // Where the stream of a tensor begins in a packed file.
  std::size_t StreamOf(const std::string& file, const std::string& tensor) const {
    const formats::InputFile input(packed() / file, file);
    const PackedHead head = ReadPackedHead(input);
    for (const PackedStream& stream : head.streams) {
      if (stream.tensor == tensor) return static_cast<std::size_t>(stream.offset);
    }
    ADD_FAILURE() << tensor;
    return 0;
  }
  void EditManifest(const std::string& before, const std::string& after) const {
    std::string text = testing::ReadFile(packed() / "packed.json");
    const std::size_t at = text.find(before);
    ASSERT_NE(at, std::string::npos);
    testing::WriteFile(packed() / "packed.json",
                       testing::SignedList(text.replace(at, before.size(), after)));
  }
};

TEST_F(ChecksumPackedTest, SoundOneHasNoFindings) {
  testing::Create(in(), false);
  std::filesystem::remove_all(packed());
  Pack();  // now with a manifest beside it, which describes other files
  const CheckChecksumsReport report = Check();
  EXPECT_THAT(testing::Kinds(report.verification), IsEmpty());
  EXPECT_EQ(BasisName(report.basis), "packed");
  EXPECT_EQ(report.basis_name, "packed.json");
  EXPECT_EQ(report.tensors, Manifest().tensors.size());
  EXPECT_EQ(report.files, Manifest().files.size());
  EXPECT_THAT(Kinds(true), IsEmpty());
  EXPECT_TRUE(HasChecksums(packed()));
}

TEST_F(ChecksumPackedTest, FlippedBitIsNamedByFileAndTensor) {
  Flip(packed() / kLongPacked, StreamOf(kLongPacked, "long.weight") + 60);
  const CheckChecksumsReport report = Check();
  const formats::Findings& findings = report.verification.findings;
  ASSERT_THAT(testing::Kinds(report.verification), ElementsAre("wrong-digest", "damaged-tensor"));
  EXPECT_EQ(findings[0].file, kLongPacked);
  EXPECT_EQ(findings[1].file, kLongPacked);
  EXPECT_EQ(findings[1].tensor, "long.weight");
  EXPECT_THAT(findings[1].message, HasSubstr("download or copy the file again"));
}

TEST_F(ChecksumPackedTest, FlippedBitOfAHeadIsNamedByFile) {
  Flip(packed() / kLongPacked, 0);
  const CheckChecksumsReport report = Check();
  ASSERT_THAT(testing::Kinds(report.verification), ElementsAre("wrong-digest", "damaged-tensor"));
  EXPECT_EQ(report.verification.findings[1].file, kLongPacked);
}

TEST_F(ChecksumPackedTest, TensorsAreComparedWithTheirDigests) {
  std::string digest;
  for (const PackedManifestTensor& tensor : Manifest().tensors) {
    if (tensor.name == "long.weight") digest = tensor.xxh3;
  }
  ASSERT_FALSE(digest.empty());
  std::string other = digest;
  other[5] = other[5] == '0' ? '1' : '0';
  EditManifest(digest, other);
  const CheckChecksumsReport report = Check();
  ASSERT_THAT(testing::Kinds(report.verification), ElementsAre("wrong-tensor-digest"));
  EXPECT_EQ(report.verification.findings[0].tensor, "long.weight");
  EXPECT_THAT(report.verification.findings[0].message, HasSubstr(digest));
  EXPECT_THAT(Kinds(true), IsEmpty());
}

TEST_F(ChecksumPackedTest, ListOfOtherTensorsIsSeen) {
  EditManifest("\"long.weight\"", "\"lang.weight\"");
  EXPECT_THAT(Kinds(), ElementsAre("wrong-tensors"));
}

TEST_F(ChecksumPackedTest, ListOfAnotherSizeIsSeen) {
  const std::size_t bytes = testing::ReadFile(in() / testing::kLongShard).size();
  const std::string listed = "\"bytes\":" + std::to_string(bytes) + ",";
  EditManifest(listed, "\"bytes\":" + std::to_string(bytes + 1) + ",");
  const CheckChecksumsReport report = Check();
  ASSERT_THAT(testing::Kinds(report.verification), ElementsAre("wrong-size"));
  EXPECT_EQ(report.verification.findings[0].file, kLongPacked);
  EXPECT_THAT(report.verification.findings[0].message, HasSubstr("it holds a file of "));
}

TEST_F(ChecksumPackedTest, FilesAreComparedByNameSizeAndDigest) {
  testing::WriteFile(packed() / "stray.txt", "x");
  std::filesystem::remove(packed() / kLongPacked);
  testing::WriteFile(packed() / "README.md", "of the modem");
  testing::WriteFile(packed() / "tokenizer.json", "{ }");
  const CheckChecksumsReport report = Check();
  EXPECT_THAT(testing::Kinds(report.verification),
              ElementsAre("wrong-digest", "missing-file", "extra-file", "wrong-size"));
  EXPECT_THAT(
      report.verification.findings[2].message,
      HasSubstr("packed.json does not list it, so nothing says what it must be; remove it"));
}

TEST_F(ChecksumPackedTest, OfADeltaTheFilesAreCompared) {
  std::filesystem::remove_all(packed());
  testing::Conversion(in(), packed(), PackConversion({.base = in()})).Run();
  EXPECT_THAT(Kinds(), IsEmpty());
  Flip(packed() / kLongPacked, StreamOf(kLongPacked, "long.weight") + 1);
  EXPECT_THAT(Kinds(), ElementsAre("wrong-digest"));
}

// Differences from a base of which a part of the values is another.
class ChecksumDeltaTest : public ChecksumPackedTest {
 protected:
  void SetUp() override {
    PackTest::SetUp();
    WriteBase(base_, 0x10);
    testing::Conversion(in(), packed(), PackConversion({.base = base_})).Run();
  }

  // IN with other bytes in its long tensor.
  void WriteBase(const std::filesystem::path& to, char bits) const {
    std::filesystem::copy(in(), to, std::filesystem::copy_options::recursive);
    std::string content = testing::ReadFile(to / kLongShard);
    for (std::size_t i = content.size() / 2; i < content.size() - 8; i += 1000) content[i] ^= bits;
    testing::WriteFile(to / kLongShard, content);
  }

  CheckChecksumsReport CheckOn(const std::filesystem::path& base, bool quick = false) const {
    CheckChecksumsRequest request;
    request.directory = packed();
    request.base = base;
    request.quick = quick;
    ProgressSink progress;
    const StopToken stop;
    return CheckChecksums(request, progress, stop);
  }

  const std::filesystem::path base_ = dir_ / "base";
};

TEST_F(ChecksumDeltaTest, WithoutTheBaseItsTensorsAreNotDecoded) {
  const CheckChecksumsReport report = Check();
  EXPECT_THAT(testing::Kinds(report.verification), IsEmpty());
  std::uint64_t needing = 0;
  for (const PackedManifestTensor& tensor : Manifest().tensors) {
    if (!tensor.base_xxh3.empty()) ++needing;
  }
  EXPECT_GT(needing, 0U);
  EXPECT_EQ(report.not_decoded, needing);
}

TEST_F(ChecksumDeltaTest, WithTheBaseAllTensorsAreDecoded) {
  const CheckChecksumsReport report = CheckOn(base_);
  EXPECT_THAT(testing::Kinds(report.verification), IsEmpty());
  EXPECT_EQ(report.not_decoded, 0U);
  Flip(packed() / kLongPacked, StreamOf(kLongPacked, "long.weight") + 60);
  const CheckChecksumsReport flipped = CheckOn(base_);
  EXPECT_THAT(testing::Kinds(flipped.verification), ElementsAre("wrong-digest", "damaged-tensor"));
  EXPECT_EQ(flipped.verification.findings.back().tensor, "long.weight");
}

TEST_F(ChecksumDeltaTest, AnotherBaseIsBadInputByTensor) {
  WriteBase(dir_ / "other", 0x01);
  const Error error = testing::ErrorOf([&] { CheckOn(dir_ / "other"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, "long.weight");
  EXPECT_THAT(error.message(), HasSubstr("give the base that pack was given"));
}

TEST_F(ChecksumDeltaTest, ABaseInVain) {
  EXPECT_EQ(testing::ErrorOf([&] { CheckOn(base_, true); }).code(), ErrorCode::kUsage);
  std::filesystem::remove_all(packed());
  PackTest::Pack();
  EXPECT_EQ(testing::ErrorOf([&] { CheckOn(base_); }).code(), ErrorCode::kUsage);
}

TEST_F(ChecksumPackedTest, CreateRefusesIt) {
  const Error error = testing::ErrorOf([&] { testing::Create(packed(), false); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("packed.json"));
}

TEST_F(ChecksumPackedTest, DamagedListIsAFinding) {
  testing::WriteFile(packed() / "packed.json", "{");
  for (const bool quick : {false, true}) {
    const CheckChecksumsReport report = Check(quick);
    ASSERT_THAT(testing::Kinds(report.verification), ElementsAre("unreadable-manifest"));
    EXPECT_EQ(report.verification.findings[0].file, "packed.json");
    EXPECT_EQ(BasisName(report.basis), "packed");
  }
}

}  // namespace
}  // namespace dsv3::convert
