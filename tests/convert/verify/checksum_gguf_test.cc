// Checksums of GGUF files.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/run_options.h"
#include "convert/verify/checksum.h"
#include "formats/error.h"
#include "formats/finding.h"
#include "formats/hash/sha256.h"
#include "tests/convert/recipes/to_gguf_test.h"
#include "tests/convert/verify/checksum_support.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::CheckChecksumsReport;
using formats::GgufType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ChecksumGgufTest : public ToGgufTest {
 protected:
  // The router's bias has 48 bytes, so that 16 zeros lie behind it.
  void SetUp() override { MakeSample(convert::SamplePreset::kTinyKimi, 1, dir_ / "in"); }

  void Make(convert::ToGgufOptions options = {},
            convert::ChecksumMode checksum = convert::ChecksumMode::kSha256) {
    options.no_tokenizer = true;
    Conversion command = Command(dir_ / "in", file_, GgufType::kQ8_0, options);
    command.request.run.checksum = checksum;
    command.Run();
  }

  std::vector<fs::path> MakeSplits(std::uint64_t size) {
    std::vector<fs::path> splits;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      if (entry.is_regular_file()) splits.push_back(entry.path());
    }
    for (const fs::path& path : splits) fs::remove(path);
    Make({.max_file_bytes = size});
    splits.clear();
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      if (entry.path().extension() == ".gguf") splits.push_back(entry.path());
    }
    return splits;
  }

  static void Flip(const fs::path& path, std::size_t offset) {
    std::string content = ReadFile(path);
    content.at(offset) = static_cast<char>(~content.at(offset));
    WriteFile(path, content);
  }

  // Where the last byte of a tensor lies.
  std::size_t EndOf(const std::string& name) const {
    const File file = ReadGguf(file_);
    const formats::GgufTensor& tensor = file.Find(name);
    return static_cast<std::size_t>(file.header.data_offset + tensor.offset + tensor.bytes - 1);
  }

  static Error Refusal(const fs::path& path, const fs::path& manifest = {}) {
    return ErrorOf([&] { Check(path, false, manifest); });
  }

  fs::path file_ = dir_ / "m.gguf";
};

TEST_F(ChecksumGgufTest, AFileIsComparedWithItsOwnManifestAlone) {
  Make();
  WriteFile(dir_ / "other.txt", "x");
  for (const bool quick : {false, true}) {
    const CheckChecksumsReport report = Check(file_, quick);
    EXPECT_THAT(report.verification.findings, IsEmpty());
    EXPECT_EQ(report.basis, CheckChecksumsReport::Basis::kManifest);
    EXPECT_EQ(report.basis_name, "m.gguf.manifest.json");
    EXPECT_THAT(report.verification.files, ElementsAre("m.gguf"));
    EXPECT_EQ(report.bytes, quick ? 0 : fs::file_size(file_));
    EXPECT_EQ(report.tensors, ReadGguf(file_).header.tensors.size());
  }
  EXPECT_TRUE(convert::HasChecksums(file_));
}

TEST_F(ChecksumGgufTest, NamesTheTensorThatDiffers) {
  for (const convert::ChecksumMode mode :
       {convert::ChecksumMode::kSha256, convert::ChecksumMode::kNone}) {
    Make({}, mode);
    EXPECT_THAT(Check(file_).verification.findings, IsEmpty());
    // Before and behind the gaps.
    for (const char* const name :
         {"token_embd.weight", "blk.1.exp_probs_b.bias", "output.weight"}) {
      SCOPED_TRACE(name);
      const std::size_t at = EndOf(name);
      Flip(file_, at);
      const formats::Findings findings = Check(file_).verification.findings;
      ASSERT_FALSE(findings.empty());
      EXPECT_EQ(findings.back().kind, "wrong-tensor-digest");
      EXPECT_EQ(findings.back().tensor, name);
      if (mode == convert::ChecksumMode::kSha256) {
        EXPECT_THAT(findings.front().message, HasSubstr("(m.gguf.manifest.json)"));
      }
      EXPECT_EQ(findings.size(), mode == convert::ChecksumMode::kNone ? 1U : 2U);
      EXPECT_THAT(Check(file_, true).verification.findings, IsEmpty());
      Flip(file_, at);
    }
    fs::remove(file_);
    fs::remove(dir_ / "m.gguf.manifest.json");
  }
}

TEST_F(ChecksumGgufTest, FindsAnotherHeaderAndAnotherSize) {
  Make();
  Flip(file_, 60);  // in the value of the first key
  for (const bool quick : {false, true}) {
    EXPECT_THAT(Kinds(Check(file_, quick).verification), ::testing::Not(IsEmpty()));
  }
  Flip(file_, 60);
  WriteFile(file_, ReadFile(file_) + "x");
  EXPECT_THAT(Kinds(Check(file_).verification), ::testing::Contains("wrong-size"));
}

TEST_F(ChecksumGgufTest, AnySplitStandsForAll) {
  const std::vector<fs::path> splits = MakeSplits(1'000'000);
  ASSERT_GT(splits.size(), 1U);
  for (const fs::path& split : splits) {
    const CheckChecksumsReport report = Check(split);
    EXPECT_THAT(report.verification.findings, IsEmpty());
    EXPECT_EQ(report.files, splits.size());
  }
  fs::remove(splits[1]);
  const formats::Findings findings = Check(splits[0]).verification.findings;
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].kind, "missing-file");
  EXPECT_EQ(findings[0].file, splits[1].filename().string());
}

// Of a file that does not end at a multiple of the alignment.
TEST_F(ChecksumGgufTest, FindsTensorsBeforeALastOneOfAnotherSize) {
  bool found = false;
  for (std::uint64_t size = 30'000; !found && size < 200'000; size += 10'000) {
    for (const fs::path& split : MakeSplits(size)) {
      const File file = ReadGguf(split);
      std::vector<formats::GgufTensor> tensors = file.header.tensors;
      std::sort(tensors.begin(), tensors.end(),
                [](const auto& a, const auto& b) { return a.offset < b.offset; });
      if (found || tensors.size() < 2 || tensors.back().bytes % 32 == 0) continue;
      found = true;
      Flip(split, static_cast<std::size_t>(file.header.data_offset + tensors.front().offset));
      const formats::Findings findings = Check(split).verification.findings;
      ASSERT_EQ(findings.size(), 2U);
      EXPECT_EQ(findings[1].kind, "wrong-tensor-digest");
      EXPECT_EQ(findings[1].tensor, tensors.front().name);
    }
  }
  EXPECT_TRUE(found);
}

TEST_F(ChecksumGgufTest, WithoutAManifestAListThatNamesItIsTaken) {
  Make();
  fs::remove(dir_ / "m.gguf.manifest.json");
  EXPECT_FALSE(convert::HasChecksums(file_));
  const Error error = Refusal(file_);
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(),
              HasSubstr("m.gguf: there is nothing to check against: no m.gguf.manifest.json"));
  formats::Sha256 hash;
  const std::string content = ReadFile(file_);
  hash.Update(std::as_bytes(std::span(content)));
  const std::string line = hash.FinishHex() + "  m.gguf\n";
  WriteFile(dir_ / "SHA256SUMS", std::string(64, '0') + "  another.gguf\n" + line);
  EXPECT_THAT(Check(file_).verification.findings, IsEmpty());
  Flip(file_, EndOf("output.weight"));
  EXPECT_THAT(Kinds(Check(file_).verification), ElementsAre("wrong-digest"));
}

TEST_F(ChecksumGgufTest, AnotherManifestIsRefused) {
  Make();
  fs::copy_file(file_, dir_ / "n.gguf");
  const Error error = Refusal(dir_ / "n.gguf", dir_ / "m.gguf.manifest.json");
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("m.gguf.manifest.json does not list it"));
  EXPECT_THAT(ErrorOf([&] {
                convert::CheckChecksumsRequest request;
                request.directory = file_;
                request.base = dir_ / "in";
                convert::ProgressSink progress;
                convert::CheckChecksums(request, progress, convert::StopToken());
              }).code(),
              ErrorCode::kUsage);
}

TEST_F(ChecksumGgufTest, AGivenManifestTakesThePlaceOfItsOwn) {
  Make();
  fs::rename(dir_ / "m.gguf.manifest.json", dir_ / "given.json");
  WriteFile(dir_ / "m.gguf.manifest.json", "{");
  EXPECT_THAT(Check(file_, false, dir_ / "given.json").verification.findings, IsEmpty());
}

TEST_F(ChecksumGgufTest, TheDirectoryOfAFileNamesIt) {
  Make();
  fs::remove_all(dir_ / "in");
  const Error error = Refusal(dir_.path());
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(),
              HasSubstr("'m.gguf.manifest.json', are those of a GGUF file alone; name the file"));
}

}  // namespace
}  // namespace dsv3::testing
