#include "formats/sums_file.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsv3::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::string kDigest(64, 'a');

TEST(SumsFileTest, ReadsBackEveryNameThatItWrites) {
  for (const std::string name : {"", "plain", "with space", "sub/dir", "back\\slash", "new\nline",
                                 "carriage\rreturn", "\\", "ends with \\n", "*star", "\xff\xfe"}) {
    const SumsFile sums = ParseSums(SumsLine(name, kDigest));
    ASSERT_EQ(sums.entries.size(), 1U) << name;
    EXPECT_EQ(sums.entries[0].name, name);
    EXPECT_EQ(sums.entries[0].sha256, kDigest);
    EXPECT_THAT(sums.bad_lines, IsEmpty());
  }
}

TEST(SumsFileTest, KnowsListsByTheirNames) {
  for (const char* name :
       {"SHA256SUMS", "sha256sums.txt", "sha256sum.txt", "SHA256SUMS.asc", "model_SHA256SUMS",
        "SHASUMS256.txt", "CHECKSUM", "checksums.txt", "sha256-checksums.txt", "sha256.txt",
        "model-00001-of-00002.safetensors.sha256", "a.sha256sum", "a.SHA256.txt"}) {
    EXPECT_TRUE(IsSumsName(name)) << name;
  }
  for (const char* name : {"checkpoint.manifest.json", "sha256.py", "checksums.md", "MD5SUMS",
                           "sha512sums", "model.safetensors", "README.md", "notes.txt"}) {
    EXPECT_FALSE(IsSumsName(name)) << name;
  }
}

TEST(SumsFileTest, KnowsSignaturesOfListsByTheirNames) {
  for (const char* name : {"SHA256SUMS.asc", "SHA256SUMS.gpg", "sha256sums.txt.sig",
                           "CHECKSUM.sign", "SHASUMS256.minisig", "a.sha256.SigStore"}) {
    EXPECT_TRUE(IsSumsSignatureName(name)) << name;
  }
  for (const char* name : {"SHA256SUMS", "model.sig", "README.asc", "SHA256SUMS.md"}) {
    EXPECT_FALSE(IsSumsSignatureName(name)) << name;
  }
}

TEST(SumsFileTest, EscapesAsSha256sumDoes) {
  EXPECT_EQ(SumsLine("a b", kDigest), kDigest + "  a b\n");
  EXPECT_EQ(SumsLine("a\\b\nc\rd", kDigest), "\\" + kDigest + "  a\\\\b\\nc\\rd\n");
}

TEST(SumsFileTest, ReadsTheOtherFormsOfSha256sum) {
  const SumsFile sums =
      ParseSums("# a comment\n\n" + kDigest + " *binary\n" + std::string(64, 'B') +
                "  ./below/name\nSHA256 (tagged (1)) = " + kDigest + "\n" + kDigest +
                "  no newline at the end");
  ASSERT_EQ(sums.entries.size(), 4U);
  EXPECT_EQ(sums.entries[0].name, "binary");
  EXPECT_EQ(sums.entries[1].name, "below/name");
  EXPECT_EQ(sums.entries[1].sha256, std::string(64, 'b'));
  EXPECT_EQ(sums.entries[2].name, "tagged (1)");
  EXPECT_EQ(sums.entries[3].name, "no newline at the end");
  EXPECT_THAT(sums.bad_lines, IsEmpty());
}

TEST(SumsFileTest, CountsLinesOfNoKnownForm) {
  const SumsFile sums =
      ParseSums("rubbish\n" + kDigest + "  good\n" + kDigest.substr(1) + "  short\n" + kDigest +
                "no blank\n" + std::string(64, 'g') + "  no digit\n\\" + kDigest +
                "  bad \\escape\n" + kDigest + "  \n" + "SHA256 (x = " + kDigest + "\n");
  EXPECT_EQ(sums.entries.size(), 1U);
  EXPECT_THAT(sums.bad_lines, ElementsAre(1, 3, 4, 5, 6, 7, 8));
}

// The one entry that a text has; fails where there are others or bad lines.
SumsEntry OnlyEntry(const std::string& text) {
  const SumsFile sums = ParseSums(text);
  EXPECT_EQ(sums.entries.size(), 1U) << text;
  EXPECT_THAT(sums.bad_lines, IsEmpty()) << text;
  return sums.entries.empty() ? SumsEntry() : sums.entries[0];
}

TEST(SumsFileTest, ReadsTheFormsOfOpensslAndBsd) {
  for (const std::string form : {"SHA256(a b)= ", "SHA2-256(a b)= ", "SHA256 (a b) = ",
                                 "SHA-256 (a b) = ", "sha256(a b)="}) {
    EXPECT_EQ(OnlyEntry(form + kDigest + "\n").name, "a b") << form;
  }
  for (const std::string form : {" a b", "\ta b", "  a b", " *a b"}) {
    EXPECT_EQ(OnlyEntry(kDigest + form + "\n").name, "a b") << form;
  }
  EXPECT_EQ(OnlyEntry("SHA256(x(1)=y)= " + kDigest).name, "x(1)=y");
  EXPECT_EQ(OnlyEntry(kDigest + "  MD5 (x) = y").name, "MD5 (x) = y");
  EXPECT_EQ(OnlyEntry(kDigest + "\n").name, "");
}

TEST(SumsFileTest, ReadsWhatEditorsMakeOfIt) {
  const std::string lines = kDigest + "  a\r\n\r\n" + kDigest + " *b\r\n";
  for (const std::string& text :
       {lines, "\xEF\xBB\xBF" + lines, kDigest + "  a\r" + kDigest + "  b\r",
        "  " + kDigest + "  a\n" + kDigest + "  b"}) {
    const SumsFile sums = ParseSums(text);
    ASSERT_EQ(sums.entries.size(), 2U);
    EXPECT_EQ(sums.entries[0].name, "a");
    EXPECT_EQ(sums.entries[1].name, "b");
    EXPECT_THAT(sums.bad_lines, IsEmpty());
  }
  std::string utf16 = "\xFF\xFE";
  for (const char c : lines) utf16 += {c, '\0'};
  EXPECT_EQ(ParseSums(utf16).entries.size(), 2U);
  EXPECT_EQ(ParseSums(utf16).entries[1].name, "b");
  EXPECT_EQ(ParseSums(lines).entries[1].line, 3U);
}

TEST(SumsFileTest, PassesOverTheFrameOfASignedText) {
  const SumsFile sums = ParseSums("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n" + kDigest +
                                  "  a\n-----BEGIN PGP SIGNATURE-----\n\niQEzBAE\n=aaaa\n"
                                  "-----END PGP SIGNATURE-----\n");
  ASSERT_EQ(sums.entries.size(), 1U);
  EXPECT_EQ(sums.entries[0].name, "a");
  EXPECT_THAT(sums.bad_lines, IsEmpty());
}

TEST(SumsFileTest, SaysWhatBadLinesSeemToBe) {
  const SumsFile sums = ParseSums("a.safetensors  " + kDigest + "\n" + std::string(32, 'a') +
                                  "  md5\nSHA512 (x) = " + std::string(128, 'a') +
                                  "\n<html>\nSHA256 (x = " + kDigest + "\n");
  EXPECT_THAT(sums.entries, IsEmpty());
  EXPECT_THAT(sums.bad_forms,
              ElementsAre(BadSumsLine::kSwapped, BadSumsLine::kOtherDigest,
                          BadSumsLine::kOtherDigest, BadSumsLine::kUnknown, BadSumsLine::kUnknown));
}

}  // namespace
}  // namespace dsv3::formats
