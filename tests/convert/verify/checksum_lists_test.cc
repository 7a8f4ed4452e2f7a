#include "convert/verify/checksum_lists.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "formats/sums_file.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/convert/verify/structure_test.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kTinyShard1;
using testing::kTinyShard2;
using testing::Lines;
using ::testing::Not;
using testing::ReadFile;
using testing::Sha256Of;
using testing::WriteFile;

// A model directory with lists that somebody else made.
class ChecksumListsTest : public testing::ChecksumTest {
 protected:
  std::string DigestOf(const std::string& name) const { return Sha256Of(ReadFile(model_ / name)); }
  // A line of each file that is there, and `end` behind it.
  std::string Sums(const std::string& end = "\n") const {
    std::string text;
    for (const auto& [name, content] : testing::ReadTree(model_)) {
      if (name.ends_with('/') || formats::IsSumsName(fs::path(name).filename().string())) continue;
      text += Sha256Of(content) + "  " + name + end;
    }
    return text;
  }
  std::vector<std::string> Found() { return Lines(Check().verification.findings); }
  // No advice may bless, remove or fetch again what a publisher's list was to vouch for.
  static void ExpectHarmless(const std::string& message) {
    for (const char* advice : {"checksum create", "remove", "download", "--overwrite"}) {
      EXPECT_THAT(message, Not(HasSubstr(advice)));
    }
  }
};

TEST_F(ChecksumListsTest, ReadsListsThatEditorsSaved) {
  const std::string text = Sums("\r\n");
  std::string utf16 = "\xFF\xFE";
  for (const char c : text) utf16 += {c, '\0'};
  for (const std::string& saved : {text, "\xEF\xBB\xBF" + text, utf16}) {
    WriteFile(model_ / "SHA256SUMS", saved);
    EXPECT_THAT(Found(), IsEmpty());
    EXPECT_EQ(Check().basis, CheckChecksumsReport::Basis::kSha256Sums);
  }
  Spoil(kTinyShard1, ReadFile(model_ / kTinyShard1).size() - 1);
  EXPECT_THAT(Found(), ElementsAre(std::string("wrong-digest ") + kTinyShard1 + " "));
}

TEST_F(ChecksumListsTest, ReadsNamesInLatin1AndLinesThatEndWithNul) {
  WriteFile(model_ / "r\xC3\xA9sum\xC3\xA9.txt", "x");
  std::string latin1 = Sums();
  for (std::size_t at; (at = latin1.find("\xC3\xA9")) != std::string::npos;) {
    latin1.replace(at, 2, "\xE9");
  }
  for (const std::string& text : {latin1, Sums(std::string(1, '\0'))}) {
    WriteFile(model_ / "SHA256SUMS", text);
    EXPECT_THAT(Found(), IsEmpty());
  }
}

TEST_F(ChecksumListsTest, FilesThatAListDoesNotNameAreWarnings) {
  WriteFile(model_ / "SHA256SUMS", DigestOf(kTinyShard1) + "  " + kTinyShard1 + "\n");
  const Verification found = Check().verification;
  EXPECT_THAT(Lines(found.findings), AllOf(Each(HasSubstr("warning extra-file ")),
                                           Contains("warning extra-file README.md ")));
  for (const formats::Finding& finding : found.findings) ExpectHarmless(finding.message);
  EXPECT_TRUE(found.Passes(/*strict=*/false));
  EXPECT_FALSE(found.Passes(/*strict=*/true));
}

TEST_F(ChecksumListsTest, AFileOfADigestIsAboutTheFileBesideIt) {
  const std::string name = kTinyShard1;
  for (const std::string& text :
       {DigestOf(name), DigestOf(name) + "\n", DigestOf(name) + "  " + name + "\r\n",
        DigestOf(name) + "  -\n", DigestOf(name) + " */build/out/" + name + "\n",
        "SHA2-256(" + name + ")= " + DigestOf(name) + "\n"}) {
    WriteFile(model_ / (name + ".sha256"), text);
    const CheckChecksumsReport checked = Check();
    EXPECT_EQ(checked.basis_name, name + ".sha256");
    EXPECT_EQ(checked.files, 1U) << text;
    EXPECT_TRUE(checked.verification.Passes(false)) << text;
    EXPECT_THAT(Lines(checked.verification.findings), Not(Contains(HasSubstr("sha256"))));
  }
  WriteFile(model_ / "code/modeling_tiny.py.sha256sum", DigestOf("code/modeling_tiny.py"));
  EXPECT_EQ(Check().files, 2U);
  EXPECT_EQ(Check().basis_name, "code/modeling_tiny.py.sha256sum and 1 more list");
  Spoil(kTinyShard1, 100);
  Spoil("code/modeling_tiny.py", 0);
  EXPECT_THAT(Found(), AllOf(Contains(std::string("wrong-digest ") + kTinyShard1 + " "),
                             Contains("wrong-digest code/modeling_tiny.py ")));
}

TEST_F(ChecksumListsTest, ListsOfOtherNamesAndFoldersAreUsedTogether) {
  WriteFile(model_ / "sha256sums.txt", DigestOf(kTinyShard1) + "  " + kTinyShard1 + "\n");
  WriteFile(model_ / "code/all.sha256", DigestOf("code/modeling_tiny.py") + "  modeling_tiny.py\n" +
                                            std::string(64, 'a') + "  other.py\n");
  const std::vector<std::string> found = Found();
  EXPECT_EQ(Check().files, 2U);
  EXPECT_THAT(found, Contains("missing-file code/other.py "));
  WriteFile(model_ / "SHA256SUMS", std::string(64, 'b') + "  " + kTinyShard1 + "\n");
  EXPECT_THAT(Found(), Contains("bad-sums-line sha256sums.txt "));
}

TEST_F(ChecksumListsTest, TheSignatureOfAListIsNotAList) {
  WriteFile(model_ / "CHECKSUM",
            "SHA256 (" + std::string(kTinyShard1) + ") = " + DigestOf(kTinyShard1) + "\n");
  WriteFile(model_ / "CHECKSUM.asc",
            "-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n");
  EXPECT_EQ(Check().basis_name, "CHECKSUM");
  Spoil(kTinyShard1, 100);
  EXPECT_THAT(Found(), Contains(std::string("wrong-digest ") + kTinyShard1 + " "));
}

TEST_F(ChecksumListsTest, SignaturesBesideAListAreNeitherListsNorExtraFiles) {
  WriteFile(model_ / "SHA256SUMS", Sums());
  const std::vector<std::pair<std::string, std::string>> signatures = {
      {"SHA256SUMS.asc", "iQIzBAABCgAd"},
      {"SHA256SUMS.gpg", std::string("\x88\x75\x04\x00\x0a", 5)},
      {"SHA256SUMS.minisig", "untrusted comment: signature\nRUQ\n"},
      {"SHA256SUMS.sig", "MEUCIQ=="},
      {"CHECKSUM.asc", "-----BEGIN PGP SIGNATURE-----\n\niQIz\n-----END PGP SIGNATURE-----\n"}};
  for (const auto& [name, content] : signatures) WriteFile(model_ / name, content);
  EXPECT_THAT(Found(), IsEmpty());
  EXPECT_EQ(Check().basis_name, "SHA256SUMS");
  // Without a list beside it, the name is that of a list that holds its signature.
  fs::rename(model_ / "SHA256SUMS", model_ / "sha256sums.txt");
  EXPECT_THAT(Found(), Contains("unreadable-sums SHA256SUMS.asc "));
}

TEST_F(ChecksumListsTest, AFolderThatAllNamesBeginWithIsLeftOut) {
  for (const std::string& above :
       {std::string("DeepSeek-V3/"), std::string("models/x/"), std::string("/data/models/x/"),
        std::string(".\\"), std::string("C:\\models\\x\\")}) {
    std::string text;
    for (const auto& [name, content] : testing::ReadTree(model_)) {
      if (name.ends_with('/') || formats::IsSumsName(name)) continue;
      text += Sha256Of(content) + "  " + above + name + "\n";
    }
    WriteFile(model_ / "SHA256SUMS", text);
    EXPECT_THAT(Found(), IsEmpty()) << above;
  }
  // One name that is right means that all are; and nothing outside is looked at.
  const std::string digest = DigestOf(kTinyShard1);
  WriteFile(model_ / "SHA256SUMS",
            digest + "  code/modeling_tiny.py\n" + digest + "  code/" + kTinyShard1 + "\n");
  EXPECT_THAT(Found(), Contains(std::string("missing-file code/") + kTinyShard1 + " "));
  WriteFile(model_ / "SHA256SUMS", digest + "  /" + kTinyShard2 + "\n" + digest + "  x/" +
                                       kTinyShard2 + "\n" + digest + "  ../x\n");
  EXPECT_THAT(Found(), AllOf(Contains("bad-sums-line SHA256SUMS "),
                             Contains(std::string("missing-file x/") + kTinyShard2 + " ")));
}

TEST_F(ChecksumListsTest, AListFromElsewhereCanBeNamed) {
  const fs::path list = dir_ / "v3.sha256";
  WriteFile(list, Sums("\r\n"));
  CheckChecksumsReport checked = Check(/*quick=*/false, list);
  EXPECT_EQ(checked.basis, CheckChecksumsReport::Basis::kSha256Sums);
  EXPECT_EQ(checked.basis_name, list.string());
  EXPECT_THAT(checked.verification.findings, IsEmpty());
  Spoil(kTinyShard2, ReadFile(model_ / kTinyShard2).size() - 1);
  EXPECT_THAT(Lines(Check(false, list).verification.findings),
              ElementsAre(std::string("wrong-digest ") + kTinyShard2 + " "));
  for (const std::string& text : {std::string("<html>"), std::string("GGUF\x03"), std::string()}) {
    WriteFile(list, text);
    const Error error = ErrorOf([&] { Check(false, list); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    ExpectHarmless(error.message());
  }
  WriteFile(list, "{\"format\": 1}");
  ExpectHarmless(ErrorOf([&] { Check(false, list); }).message());
}

TEST_F(ChecksumListsTest, ReadsColumnsThatBlanksAlignAndAColumnOfSizes) {
  const std::string digest = DigestOf(kTinyShard1);
  for (const std::string& line :
       {"  " + digest + "     " + kTinyShard1 + "   \n", digest + "  123456  " + kTinyShard1 + "\n",
        digest + " 7 " + kTinyShard1 + "\n", digest + " - " + kTinyShard1 + "\n",
        digest + " * " + kTinyShard1 + "\n"}) {
    WriteFile(model_ / "SHA256SUMS", line);
    EXPECT_TRUE(Check().verification.Passes(false)) << line;
    EXPECT_EQ(Check().files, 1U);
  }
  Spoil(kTinyShard1, 100);
  EXPECT_THAT(Found(), Contains(std::string("wrong-digest ") + kTinyShard1 + " "));
  WriteFile(model_ / "SHA256SUMS", digest + "   lost.safetensors  \n");
  EXPECT_THAT(Found(), Contains("missing-file lost.safetensors "));
}

TEST_F(ChecksumListsTest, AListInAFolderMayNameFilesFromTheTop) {
  WriteFile(model_ / "sums/SHA256SUMS", DigestOf(kTinyShard1) + "  " + kTinyShard1 + "\n");
  EXPECT_TRUE(Check().verification.Passes(false));
  Spoil(kTinyShard1, 100);
  EXPECT_THAT(Found(), Contains(std::string("wrong-digest ") + kTinyShard1 + " "));
}

TEST_F(ChecksumListsTest, ADigestAloneMayHaveBlanksAroundIt) {
  for (const std::string& text :
       {"  " + DigestOf(kTinyShard1) + "  \n\n", "sha256:" + DigestOf(kTinyShard1) + " \r\n"}) {
    WriteFile(model_ / (std::string(kTinyShard1) + ".sha256"), text);
    EXPECT_TRUE(Check().verification.Passes(false)) << text;
    EXPECT_EQ(Check().files, 1U);
  }
}

TEST_F(ChecksumListsTest, TheDigestOfAStandardInputNamesNoFile) {
  WriteFile(model_ / "SHA256SUMS", DigestOf(kTinyShard1) + "  -\n");
  const formats::Findings findings = Check().verification.findings;
  ASSERT_THAT(Lines(findings), Contains("bad-sums-line SHA256SUMS "));
  EXPECT_THAT(findings[0].message, HasSubstr("the digest of a standard input"));
  ExpectHarmless(findings[0].message);
}

TEST_F(ChecksumListsTest, FilesThatMayBeListsAreNamedWhereThereIsNothingElse) {
  for (const char* const name : {"checksums.json", "sums/SHA256SUMS.md", "hashes.txt"}) {
    WriteFile(model_ / name, "what a publisher writes");
    const Error error = ErrorOf([&] { Check(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), HasSubstr(std::string("'") + name + "' may be the publisher's"));
    ExpectHarmless(error.message());
    fs::remove(model_ / name);
  }
}

TEST_F(ChecksumListsTest, FilesThatSayDigestsOfOthersAreNamedWhateverTheirNames) {
  const std::string digest = DigestOf(kTinyShard1);
  for (const std::string& text :
       {digest + "  " + kTinyShard1 + "\n",
        "# Model\n\n| " + std::string(kTinyShard1) + " | " + digest + " |\n",
        "{\"" + std::string(kTinyShard1) + "\": \"" + digest + "\"}"}) {
    WriteFile(model_ / "README.md", text);
    const Error error = ErrorOf([&] { Check(); });
    EXPECT_THAT(error.message(), HasSubstr("'README.md' may be the publisher's list"));
    ExpectHarmless(error.message());
  }
  // A digest of something else, a name alone, and what is too long for a digest.
  for (const std::string& text : {digest + "  other.tar\n", std::string(kTinyShard1) + "\n",
                                  digest + "0  " + kTinyShard1 + "\n"}) {
    WriteFile(model_ / "README.md", text);
    EXPECT_THAT(ErrorOf([&] { Check(); }).message(), HasSubstr("there is nothing to check"));
  }
}

TEST_F(ChecksumListsTest, CreateWarnsOfListsThatAreNotRead) {
  for (const char* const name : {"checksums.json", "MD5SUMS"}) {
    WriteFile(model_ / name, "what a publisher writes");
    const CreateChecksumsReport created = Create(/*overwrite=*/true);
    EXPECT_TRUE(created.written);
    EXPECT_THAT(Lines(created.verification.findings),
                ElementsAre(std::string("warning unread-sums ") + name + " "));
    for (const char* const made : {name, "SHA256SUMS", "checkpoint.manifest.json"}) {
      fs::remove(model_ / made);
    }
  }
}

TEST_F(ChecksumListsTest, ListsOfOtherDigestsAreNamedWhereThereIsNothingElse) {
  WriteFile(model_ / "MD5SUMS", std::string(32, 'a') + "  " + kTinyShard1 + "\n");
  const Error error = ErrorOf([&] { Check(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("'MD5SUMS' holds MD5 digests, which are not read"));
  EXPECT_THAT(error.message(), Not(HasSubstr("checksum create")));
}

TEST_F(ChecksumListsTest, ListsOfOtherDigestsAreCalledByTheirKind) {
  for (const auto& [name, kind] :
       {std::pair("B3SUMS", "BLAKE3"), std::pair("a.sha512", "SHA-512")}) {
    const fs::path list = model_ / name;
    WriteFile(list, Sums());
    EXPECT_THAT(ErrorOf([&] { Check(); }).message(),
                HasSubstr(std::string("holds ") + kind + " digests"));
    const Error named = ErrorOf([&] { Check(false, list); });
    EXPECT_THAT(named.message(), HasSubstr(std::string("of another kind, ") + kind));
    ExpectHarmless(named.message());
    fs::remove(list);
  }
}

TEST_F(ChecksumListsTest, ListsThatShowDamageAloneAreNamed) {
  for (const char* const name : {"model.sfv", "xxhsums.txt", "xxh128sums.txt"}) {
    WriteFile(model_ / name, std::string(kTinyShard1) + " 1234abcd\n");
    const Error error = ErrorOf([&] { Check(); });
    EXPECT_THAT(error.message(), HasSubstr(std::string("'") + name + "' holds "));
    EXPECT_THAT(error.message(),
                HasSubstr("they show damage, but no change that was made on purpose"));
    ExpectHarmless(error.message());
    fs::remove(model_ / name);
  }
}

TEST_F(ChecksumListsTest, ReadsListsOfWindowsThatWereMadeAboveTheModel) {
  std::string table = "\r\nAlgorithm       Hash    Path\r\n---------       ----    ----\r\n";
  for (const char* name : {kTinyShard1, kTinyShard2}) {
    table += "SHA256          " + DigestOf(name) + "       C:\\models\\v3\\" + name + "\r\n";
  }
  std::string utf16 = "\xFF\xFE";
  for (const char c : table) utf16 += {c, '\0'};
  WriteFile(model_ / "SHA256SUMS", utf16);
  EXPECT_THAT(Found(), Not(Contains(HasSubstr(kTinyShard1))));
  std::string bytes = ReadFile(model_ / kTinyShard1);
  bytes.back() ^= 1;
  WriteFile(model_ / kTinyShard1, bytes);
  EXPECT_THAT(Found(), Contains(HasSubstr(std::string("wrong-digest ") + kTinyShard1)));
}

TEST_F(ChecksumListsTest, AListThatIsNoneIsCalledWhatItIs) {
  std::string swapped;
  for (const char* name : {kTinyShard1, kTinyShard2}) {
    swapped += std::string(name) + "  " + DigestOf(name) + "\n";
  }
  const std::vector<std::pair<std::string, std::string>> cases = {
      {swapped, "columns are swapped"},
      {"<!DOCTYPE html>\n<html>", "HTML"},
      {"\n", "empty"},
      {std::string(32, 'a') + "  x\n", "MD5"},
      {"{\"a\": \"" + DigestOf(kTinyShard1) + "\"}\n", "JSON"},
      {"\x1F\x8B\x08\x01 and so on", "not a text"},
      {"rubbish\n", "no line of it is of a form that is known"}};
  for (const auto& [text, what] : cases) {
    WriteFile(model_ / "SHA256SUMS", text);
    const Error error = ErrorOf([&] { Check(); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(), AllOf(HasSubstr("SHA256SUMS: "), HasSubstr(what)));
    ExpectHarmless(error.message());
    // Nor are checksums made in its place.
    const CreateChecksumsReport created = Create();
    EXPECT_FALSE(created.written);
    EXPECT_TRUE(created.list_unreadable);
    EXPECT_THAT(Lines(created.verification.findings), ElementsAre("unreadable-sums SHA256SUMS "));
    EXPECT_EQ(ReadFile(model_ / "SHA256SUMS"), text);
  }
  // Where others tell what the files must be, it is a finding.
  WriteFile(model_ / (std::string(kTinyShard1) + ".sha256"), DigestOf(kTinyShard1));
  EXPECT_THAT(Found(), Contains("unreadable-sums SHA256SUMS "));
}

TEST_F(ChecksumListsTest, SingleBadLinesSayWhatIsWrongWithThem) {
  WriteFile(model_ / "SHA256SUMS", Sums() + "a  " + std::string(64, 'a') + "\n" +
                                       std::string(40, 'a') + "  b\n" + std::string(64, 'a') +
                                       "\n");
  const formats::Findings findings = Check().verification.findings;
  ASSERT_THAT(Lines(findings), Each(std::string("bad-sums-line SHA256SUMS ")));
  ASSERT_EQ(findings.size(), 3U);
  EXPECT_THAT(findings[0].message, HasSubstr("name first"));
  EXPECT_THAT(findings[1].message, HasSubstr("another kind"));
  EXPECT_THAT(findings[2].message, HasSubstr("no name"));
  for (const formats::Finding& finding : findings) ExpectHarmless(finding.message);
  const CreateChecksumsReport created = Create();
  EXPECT_FALSE(created.written);
  EXPECT_TRUE(created.list_unreadable);
}

TEST_F(ChecksumListsTest, CreateChecksAgainstListsFirst) {
  WriteFile(model_ / (std::string(kTinyShard1) + ".sha256"), std::string(64, 'a'));
  EXPECT_FALSE(Create().written);
  WriteFile(model_ / (std::string(kTinyShard1) + ".sha256"), DigestOf(kTinyShard1));
  const CreateChecksumsReport created = Create();
  EXPECT_TRUE(created.written);
  EXPECT_FALSE(created.replaced);
  EXPECT_THAT(Found(), IsEmpty());
}

}  // namespace
}  // namespace dsv3::convert
