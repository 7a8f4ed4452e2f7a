#include "formats/signature_bundle.h"

#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/signature_key.h"
#include "formats/signature_statement.h"
#include "tests/formats/expect_error.h"
#include "tests/formats/signature_vectors.h"

namespace dsv3::formats {
namespace {

using testing::ExpectBadInput;
using testing::kSignatureVectors;
using testing::kSignedModel;
using testing::SignatureVector;

std::string Example() { return BundleText({"aabb", "payload", "sig"}); }

std::string Changed(const std::string& from, const std::string& to) {
  std::string text = Example();
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void ExpectRejected(const std::string& text, const std::string& words) {
  ExpectBadInput([&] { ParseBundle(text, "model.sig"); }, "model.sig", words);
}

TEST(PreAuthenticationEncodingTest, CountsBytes) {
  EXPECT_EQ(PreAuthenticationEncoding("{}"), "DSSEv1 28 application/vnd.in-toto+json 2 {}");
  EXPECT_EQ(PreAuthenticationEncoding("ä"), "DSSEv1 28 application/vnd.in-toto+json 2 ä");
  EXPECT_EQ(PreAuthenticationEncoding(""), "DSSEv1 28 application/vnd.in-toto+json 0 ");
}

TEST(SignatureBundleTest, IsTheDocumentedText) {
  EXPECT_EQ(Example(), R"({"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",)"
                       R"("verificationMaterial":{"publicKey":{"hint":"aabb"},"tlogEntries":[]},)"
                       R"("dsseEnvelope":{"payload":"cGF5bG9hZA==",)"
                       R"("payloadType":"application/vnd.in-toto+json",)"
                       R"("signatures":[{"sig":"c2ln","keyid":""}]}})");
}

TEST(SignatureBundleTest, ReadsBackWhatItWrote) {
  const SignatureBundle parsed = ParseBundle(Example(), "model.sig");
  EXPECT_EQ(parsed.hint, "aabb");
  EXPECT_EQ(parsed.payload, "payload");
  EXPECT_EQ(parsed.signature, "sig");
}

// The whole way through what model_signing 1.1.1 wrote.
TEST(SignatureBundleTest, UnderstandsThePythonTool) {
  for (const SignatureVector& vector : kSignatureVectors) {
    const SignatureBundle bundle = ParseBundle(vector.bundle, "model.sig");
    const VerifyingKey key = VerifyingKey::FromPem(vector.public_key, "key.pub");
    EXPECT_EQ(bundle.hint, key.hint());
    EXPECT_TRUE(key.Verifies(PreAuthenticationEncoding(bundle.payload), bundle.signature));
    const SignatureStatement statement = ParseStatement(bundle.payload, "model.sig");
    EXPECT_EQ(statement.subject, "model");
    EXPECT_EQ(statement.root_digest, RootDigest(statement.files));
    EXPECT_FALSE(statement.allow_symlinks);
    ASSERT_EQ(statement.files.size(), kSignedModel.size());
    for (std::size_t i = 0; i < kSignedModel.size(); ++i) {
      EXPECT_EQ(statement.files[i].name, kSignedModel[i].name);
    }
  }
}

TEST(SignatureBundleTest, AcceptsWhatTheFormLeavesOpen) {
  EXPECT_EQ(ParseBundle(Changed(R"(,"keyid":"")", ""), "f").signature, "sig");
  EXPECT_EQ(ParseBundle(Changed(R"("keyid":"")", R"("keyid":null)"), "f").signature, "sig");
  EXPECT_EQ(ParseBundle(Changed(R"(,"tlogEntries":[])", ""), "f").hint, "aabb");
  EXPECT_EQ(ParseBundle(Changed(R"("hint":"aabb")", R"("rawBytes":"aabb")"), "f").hint, "");
  EXPECT_EQ(ParseBundle(Changed(R"("hint":"aabb")", R"("hint":null)"), "f").hint, "");
  EXPECT_EQ(
      ParseBundle(Changed(R"("tlogEntries":[])", R"("timestampVerificationData":{})"), "f").payload,
      "payload");
}

TEST(SignatureBundleTest, RejectsMissingMembers) {
  for (const char* text : {"", " ", "null", "[]", "\"\"", "{", "\xff"}) {
    ExpectRejected(text, "");
  }
  ExpectRejected("{}", "lacks 'dsseEnvelope'");
  ExpectRejected(Changed("mediaType", "mediatype"), "unknown member");
  ExpectRejected(Changed(R"("mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",)", ""),
                 "lacks 'mediaType'");
  ExpectRejected(Changed(R"("payload":"cGF5bG9hZA==",)", ""), "lacks 'payload'");
  ExpectRejected(Changed(R"("payloadType":"application/vnd.in-toto+json",)", ""),
                 "lacks 'payloadType'");
  ExpectRejected(Changed(R"(,"signatures":[{"sig":"c2ln","keyid":""}])", ""), "lacks 'signatures'");
  ExpectRejected(Changed(R"("sig":"c2ln",)", ""), "lacks 'sig'");
}

TEST(SignatureBundleTest, RejectsWrongValues) {
  ExpectRejected(Changed("v0.3", "v0.2"), "mediaType is");
  ExpectRejected(Changed("in-toto+json", "in-toto"), "payloadType is");
  ExpectRejected(Changed("cGF5bG9hZA==", "cGF5bG9hZA="), "payload is not base64 text");
  ExpectRejected(Changed("cGF5bG9hZA==", ""), "payload is not base64 text");
  ExpectRejected(Changed("c2ln", "c2l!"), "sig is not base64 text");
  ExpectRejected(Changed(R"([{"sig":"c2ln","keyid":""}])", "[]"), "0 signatures");
  ExpectRejected(Changed("[{", R"([{"sig":"c2ln"},{)"), "2 signatures");
}

TEST(SignatureBundleTest, RejectsWrongTypes) {
  ExpectRejected(Changed(R"("cGF5bG9hZA==")", "7"), "malformed");
  ExpectRejected(Changed(R"("aabb")", "[]"), "malformed");
  ExpectRejected(Changed(R"({"hint":"aabb"})", "null"), "malformed");
  ExpectRejected(Changed(R"([{"sig":"c2ln","keyid":""}])", "{}"), "malformed");
  ExpectRejected(Changed(R"("tlogEntries":[])", R"("tlogEntries":{})"), "malformed");
}

TEST(SignatureBundleTest, RejectsUnknownAndRepeatedMembers) {
  ExpectRejected(Changed("{\"mediaType", "{\"more\":1,\"mediaType"), "unknown member 'more'");
  ExpectRejected(Changed("\"payloadType\"", "\"more\":1,\"payloadType\""), "unknown member 'more'");
  ExpectRejected(Changed("\"keyid\":\"\"", "\"more\":1"), "unknown member 'more'");
  ExpectRejected(Changed("\"sig\":\"c2ln\"", "\"sig\":\"c2ln\",\"sig\":\"c2ln\""),
                 "has 'sig' twice");
  ExpectRejected(Example() + Example(), "nothing may follow");
}

TEST(SignatureBundleTest, SaysThatCertificatesAreForAnotherTool) {
  ExpectRejected(Changed(R"("publicKey":{"hint":"aabb"})", R"("certificate":{"rawBytes":"AA=="})"),
                 "certificate");
}

}  // namespace
}  // namespace dsv3::formats
