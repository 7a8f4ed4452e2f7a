#include "formats/signature_statement.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/formats/expect_error.h"

namespace dsv3::formats {
namespace {

using testing::ExpectBadInput;

const std::string kZeros(64, '0');
const std::string kOnes(64, '1');

SignatureStatement Example() {
  SignatureStatement statement;
  statement.subject = "model";
  statement.files = {{"config.json", kZeros}, {"sub/ä \"x\"", kOnes}};
  statement.ignore_paths = {".git", "model.sig"};
  return statement;
}

// The text of the example with one piece replaced.
std::string Changed(const std::string& from, const std::string& to) {
  std::string text = StatementText(Example());
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void ExpectRejected(const std::string& text, const std::string& words) {
  ExpectBadInput([&] { ParseStatement(text, "model.sig"); }, "model.sig", words);
}

TEST(SignatureStatementTest, IsTheDocumentedText) {
  EXPECT_EQ(StatementText(Example()),
            R"({"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"model","digest":)"
            R"({"sha256":"8878b15a7d6a3a4f464e8f9f42591dbc0cf4bedea0ec309003d2b2ee53655ef8"}}],)"
            R"("predicateType":"https://model_signing/signature/v1.0","predicate":)"
            R"({"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,)"
            R"("ignore_paths":[".git","model.sig"]},"resources":[{"name":"config.json",)"
            R"("algorithm":"sha256","digest":")" +
                kZeros + R"("},{"name":"sub/ä \"x\"","algorithm":"sha256","digest":")" + kOnes +
                R"("}]}})");
}

TEST(SignatureStatementTest, ReadsBackWhatItWrote) {
  SignatureStatement example = Example();
  example.allow_symlinks = true;
  const SignatureStatement parsed = ParseStatement(StatementText(example), "model.sig");
  EXPECT_EQ(parsed.subject, "model");
  EXPECT_TRUE(parsed.allow_symlinks);
  EXPECT_EQ(parsed.ignore_paths, example.ignore_paths);
  ASSERT_EQ(parsed.files.size(), 2U);
  EXPECT_EQ(parsed.files[1].name, "sub/ä \"x\"");
  EXPECT_EQ(parsed.files[1].sha256, kOnes);
  EXPECT_EQ(parsed.root_digest, RootDigest(example.files));
}

TEST(SignatureStatementTest, AcceptsWhatTheFormLeavesOpen) {
  // Further members, digests in capital letters, white space, no ignore_paths.
  const std::string capital(64, 'A');
  std::string text = Changed(kZeros, capital);
  text.insert(text.find("\"predicate\":{") + 13, "\"more\":[1],\n ");
  text.insert(text.find("\"name\":\"config"), "\"size\":3,");
  const SignatureStatement parsed = ParseStatement(text, "model.sig");
  EXPECT_EQ(parsed.files[0].sha256, std::string(64, 'a'));
  EXPECT_TRUE(ParseStatement(Changed(R"(,"ignore_paths":[".git","model.sig"])", ""), "model.sig")
                  .ignore_paths.empty());
}

TEST(SignatureStatementTest, RejectsWhatIsNoStatement) {
  ExpectRejected("", "a value is expected");
  ExpectRejected("[]", "malformed");
  ExpectRejected("{}", "lacks '_type'");
  ExpectRejected(StatementText(Example()) + "x", "nothing may follow");
  ExpectRejected(Changed("Statement/v1", "Statement/v0.1"), "_type");
  ExpectRejected(Changed("signature/v1.0", "Digests/v0.1"), "predicateType");
  ExpectRejected(Changed("\"_type\"", "\"type\""), "lacks '_type'");
  ExpectRejected(Changed("\"subject\":[", "\"subject\":[{\"name\":\"b\",\"digest\":{\"sha256\":\"" +
                                              kOnes + "\"}},"),
                 "2 subjects");
  ExpectRejected(Changed("\"name\":\"model\"", "\"name\":7"), "malformed");
}

TEST(SignatureStatementTest, RejectsOtherMethodsAndDigests) {
  ExpectRejected(Changed("\"files\"", "\"shards\""), "method is 'shards'");
  ExpectRejected(Changed("\"hash_type\":\"sha256\"", "\"hash_type\":\"blake3\""), "hash_type");
  ExpectRejected(Changed("\"algorithm\":\"sha256\"", "\"algorithm\":\"blake2b\""), "algorithm");
  ExpectRejected(Changed(kZeros, kZeros.substr(1)), "64 hexadecimal digits");
  ExpectRejected(Changed(kZeros, kZeros.substr(1) + "g"), "64 hexadecimal digits");
  ExpectRejected(Changed("\"allow_symlinks\":false", "\"allow_symlinks\":0"), "true or false");
}

TEST(SignatureStatementTest, RejectsNamesThatLeadOutOfTheModelOrRepeat) {
  for (const char* name :
       {"", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\\u0000b"}) {
    ExpectRejected(Changed("config.json", name), "not a plain path");
  }
  ExpectRejected(Changed("sub/ä \\\"x\\\"", "config.json"), "twice");
  ExpectRejected(Changed("config.json", "."), "'.' beside others");
  ExpectRejected(Changed("\"method\":\"files\"", "\"method\":\"files\",\"method\":\"files\""),
                 "has 'method' twice");
}

TEST(SignatureStatementTest, RejectsAModelWithoutFiles) {
  SignatureStatement nothing = Example();
  nothing.files.clear();
  ExpectRejected(StatementText(nothing), "no file");
}

TEST(SignatureStatementTest, RootDigestDependsOnTheOrder) {
  std::vector<SignedFile> files = Example().files;
  const std::string root = RootDigest(files);
  EXPECT_EQ(RootDigest({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  std::swap(files[0], files[1]);
  EXPECT_NE(RootDigest(files), root);
}

TEST(ComponentsLessTest, OrdersByComponentNotByCharacter) {
  std::vector<std::string> names = {"a-b", "a", "a/b", "b", "a/b/c", "a.b", "B", "a/b-c", "ä"};
  std::sort(names.begin(), names.end(), ComponentsLess);
  EXPECT_EQ(names,
            (std::vector<std::string>{"B", "a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "b", "ä"}));
}

}  // namespace
}  // namespace dsv3::formats
