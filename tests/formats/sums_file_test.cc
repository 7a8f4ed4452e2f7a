#include "formats/sums_file.h"

#include <string>
#include <utility>
#include <vector>

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

TEST(SumsFileTest, KnowsFilesThatMayBeListsByTheirNames) {
  for (const char* name : {"checksums.json", "SHA256SUMS.md", "hashes.txt", "sha256.csv",
                           "SHA256SUMS.gz", "digests", "Model-Checksums.YAML"}) {
    EXPECT_TRUE(MayBeSumsName(name)) << name;
  }
  for (const char* name : {"checkpoint.manifest.json", "sha256.py", "config.json", "README.md",
                           "tokenizer_hashes.safetensors"}) {
    EXPECT_FALSE(MayBeSumsName(name)) << name;
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
  EXPECT_EQ(OnlyEntry("sha256:" + kDigest + "  a b\n").name, "a b");
  EXPECT_EQ(OnlyEntry("SHA256:" + kDigest).sha256, kDigest);
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

TEST(SumsFileTest, ReadsUtf32) {
  const std::string lines = kDigest + "  a\r\n" + kDigest + " *b\r\n";
  for (const bool little : {true, false}) {
    for (const bool mark : {true, false}) {
      const std::string zeros(3, '\0');
      std::string text;
      if (mark) text = little ? std::string("\xFF\xFE\0\0", 4) : std::string("\0\0\xFE\xFF", 4);
      for (const char c : lines) text += little ? c + zeros : zeros + c;
      const SumsFile sums = ParseSums(text);
      ASSERT_EQ(sums.entries.size(), 2U) << little << mark;
      EXPECT_EQ(sums.entries[1].name, "b");
      EXPECT_THAT(sums.bad_lines, IsEmpty());
    }
  }
}

TEST(SumsFileTest, ReadsCertutil) {
  std::string spaced;
  for (std::size_t i = 0; i < kDigest.size(); i += 2) spaced += kDigest.substr(i, 2) + " ";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"SHA256 hash of a b.bin:\r\n" + kDigest +
           "\r\nCertUtil: -hashfile command completed successfully.\r\n",
       "a b.bin"},
      {"SHA256 hash of file C:\\m\\a.bin:\r\n" + spaced +
           "\r\nCertUtil: -hashfile command completed successfully.\r\n",
       "C:\\m\\a.bin"},
      {"SHA256-Hash von a.bin:\n" + kDigest +
           "\nCertUtil: -hashfile-Befehl wurde erfolgreich ausgef\u00fchrt.\n",
       "a.bin"},
      {"Hachage SHA256 du fichier a.bin :\n" + kDigest + "\n", "a.bin"},
      {"SHA256 hash of file:\n" + kDigest + "\n", "file"}};
  for (const auto& [text, name] : cases) EXPECT_EQ(OnlyEntry(text).name, name) << text;
  const SumsFile two = ParseSums(cases[0].first + cases[2].first);
  ASSERT_EQ(two.entries.size(), 2U);
  EXPECT_EQ(two.entries[1].line, 4U);
  // Without an algorithm certutil makes SHA-1.
  const SumsFile other = ParseSums("SHA1 hash of a:\n" + std::string(40, 'a') + "\n");
  EXPECT_THAT(other.other_digests, ElementsAre("SHA-1"));
  const SumsFile failed =
      ParseSums("CertUtil: -hashfile command FAILED: 0x80070002 (WIN32: 2)\nCertUtil: no file\n");
  EXPECT_THAT(failed.bad_lines, ElementsAre(1));
}

TEST(SumsFileTest, ReadsGetFileHash) {
  const std::string table = "\r\nAlgorithm       Hash" + std::string(70, ' ') +
                            "Path\r\n---------       ----" + std::string(70, ' ') +
                            "----\r\nSHA256          " + std::string(64, 'A') +
                            "       C:\\m x\\a.bin  \r\n\r\n\r\n";
  EXPECT_EQ(OnlyEntry(table).name, "C:\\m x\\a.bin");
  EXPECT_EQ(OnlyEntry(table).sha256, kDigest);
  const std::string list = "\r\n\r\nAlgorithm : SHA256\r\nHash      : " + kDigest.substr(0, 50) +
                           "\r\n            " + kDigest.substr(50) +
                           "\r\nPath      : C:\\m\\a long\r\n            er.bin\r\n\r\n";
  EXPECT_EQ(OnlyEntry(list).name, "C:\\m\\a longer.bin");
  EXPECT_EQ(ParseSums(list + list).entries.size(), 2U);
  EXPECT_EQ(OnlyEntry("Hash : " + kDigest + "\nPath : a:b\n").name, "a:b");
  EXPECT_EQ(OnlyEntry("Hash" + std::string(70, ' ') + "Path\n----" + std::string(70, ' ') +
                      "----\n" + kDigest + "          C:\\a.bin\n")
                .name,
            "C:\\a.bin");
  EXPECT_EQ(
      OnlyEntry("\"Algorithm\",\"Hash\",\"Path\"\n\"SHA256\",\"" + kDigest + "\",\"C:\\a,b.bin\"\n")
          .name,
      "C:\\a,b.bin");
  for (const std::string end : {"...", "\u2026"}) {
    EXPECT_THAT(ParseSums("SHA256  " + kDigest + "  C:\\mod" + end + "\n").bad_forms,
                ElementsAre(BadSumsLine::kCutName));
  }
  EXPECT_THAT(
      ParseSums("Algorithm : MD5\nHash : " + std::string(32, 'a') + "\nPath : a\n").other_digests,
      ElementsAre("MD5"));
  EXPECT_THAT(ParseSums("Algorithm : SHA256\nPath : a\n").bad_lines, ElementsAre(1, 2));
}

TEST(SumsFileTest, NamesOtherDigests) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {std::string(32, 'a') + "  x", "MD5"},
      {std::string(128, 'a') + " *x", "SHA-512"},
      {"SHA512 (x) = " + std::string(128, 'a'), "SHA-512"},
      {"BLAKE3 (x) = " + kDigest, "BLAKE3"},
      {"BLAKE2b (x) = " + std::string(128, 'a'), "BLAKE2b"},
      {"SHA3-256(x)= " + kDigest, "SHA3-256"},
      {"SHA2-512(x)= " + std::string(128, 'a'), "SHA-512"}};
  for (const auto& [line, kind] : cases) {
    EXPECT_THAT(ParseSums(line + "\n").other_digests, ElementsAre(kind)) << line;
  }
}

TEST(SumsFileTest, KnowsListsOfOtherDigestsByTheirNames) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"B3SUMS", "BLAKE3"},         {"model.safetensors.b3", "BLAKE3"},
      {"blake3sums.txt", "BLAKE3"}, {"SHA512SUMS", "SHA-512"},
      {"a.SHA512", "SHA-512"},      {"md5sum.txt", "MD5"},
      {"a.md5sum", "MD5"},          {"release_SHA1SUMS", "SHA-1"},
      {"model.sfv", "CRC32"},       {"xxhsums.txt", "xxHash"},
      {"xxh128sums.txt", "XXH128"}, {"XXH3SUMS", "XXH3"},
      {"a.crc32", "CRC32"},         {"a.xxh32", "XXH32"}};
  for (const auto& [name, kind] : cases) EXPECT_EQ(OtherDigestOfName(name), kind) << name;
  for (const char* name : {"SHA256SUMS", "a.sha256", "md5", "web3", "README.md", "checksums"}) {
    EXPECT_EQ(OtherDigestOfName(name), "") << name;
  }
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
  for (const std::string& line : {"a," + kDigest, "a: " + kDigest, "| a | `" + kDigest + "` |",
                                  "\"a\": \"" + kDigest + "\",", "'a';'" + kDigest + "'"}) {
    EXPECT_THAT(ParseSums(line).bad_forms, ElementsAre(BadSumsLine::kSwapped)) << line;
  }
  EXPECT_THAT(ParseSums("a" + kDigest).bad_forms, ElementsAre(BadSumsLine::kUnknown));
}

}  // namespace
}  // namespace dsv3::formats
