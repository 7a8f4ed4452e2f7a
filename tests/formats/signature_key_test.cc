#include "formats/signature_key.h"

#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "tests/formats/expect_error.h"
#include "tests/formats/signature_vectors.h"

namespace dsv3::formats {
namespace {

using testing::ErrorOf;
using testing::ExpectBadInput;
using ::testing::HasSubstr;
using testing::kSignatureVectors;
using ::testing::Not;
using testing::SignatureVector;

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(length)};
}

std::string PrivatePem(EVP_PKEY* key, const char* password = nullptr) {
  const std::unique_ptr<BIO, FreeBio> bio(BIO_new(BIO_s_mem()));
  const std::string secret = password == nullptr ? "" : password;
  EXPECT_EQ(
      PEM_write_bio_PrivateKey(bio.get(), key, password == nullptr ? nullptr : EVP_aes_256_cbc(),
                               reinterpret_cast<const unsigned char*>(password),
                               static_cast<int>(secret.size()), nullptr, nullptr),
      1);
  return TextOf(bio.get());
}

std::string PublicPem(EVP_PKEY* key) {
  const std::unique_ptr<BIO, FreeBio> bio(BIO_new(BIO_s_mem()));
  EXPECT_EQ(PEM_write_bio_PUBKEY(bio.get(), key), 1);
  return TextOf(bio.get());
}

KeyPointer Parse(std::string_view pem) {
  const std::unique_ptr<BIO, FreeBio> bio(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return KeyPointer(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}

SigningKey PrivateKey(const SignatureVector& vector) {
  return SigningKey::FromPem(std::string(vector.private_key), "key.pem");
}

VerifyingKey PublicKey(const SignatureVector& vector) {
  return VerifyingKey::FromPem(vector.public_key, "key.pub");
}

TEST(SignatureKeyTest, VerifiesWhatItSignedAndNothingElse) {
  for (const SignatureVector& vector : kSignatureVectors) {
    const SigningKey signing = PrivateKey(vector);
    const VerifyingKey verifying = PublicKey(vector);
    EXPECT_EQ(signing.curve(), vector.curve);
    EXPECT_EQ(verifying.curve(), vector.curve);
    const std::string signature = signing.Sign("message");
    EXPECT_TRUE(verifying.Verifies("message", signature));
    EXPECT_FALSE(verifying.Verifies("Message", signature));
    EXPECT_FALSE(verifying.Verifies("message", signature.substr(1)));
    EXPECT_FALSE(verifying.Verifies("message", ""));
    EXPECT_FALSE(verifying.Verifies("message", "no DER"));
    for (const SignatureVector& other : kSignatureVectors) {
      EXPECT_EQ(PublicKey(other).Verifies("message", signature), &other == &vector);
    }
  }
}

TEST(SignatureKeyTest, HintIsTheDigestOfTheCanonicalText) {
  for (const SignatureVector& vector : kSignatureVectors) {
    const std::string hint = PublicKey(vector).hint();
    EXPECT_EQ(PrivateKey(vector).hint(), hint);
    EXPECT_THAT(vector.bundle, HasSubstr("\"hint\":\"" + hint + "\""));
    // Spaces and comments around the block do not change what it says.
    const std::string around = "a comment\n" + std::string(vector.public_key) + "\n\n";
    EXPECT_EQ(VerifyingKey::FromPem(around, "key.pub").hint(), hint);
  }
}

TEST(SignatureKeyTest, HintOfACompressedPointIsThatOfTheWholeOne) {
  for (const SignatureVector& vector : kSignatureVectors) {
    const KeyPointer key = Parse(vector.private_key);
    ASSERT_EQ(EVP_PKEY_set_utf8_string_param(key.get(), OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT,
                                             OSSL_PKEY_EC_POINT_CONVERSION_FORMAT_COMPRESSED),
              1);
    const std::string compressed = PublicPem(key.get());
    ASSERT_LT(compressed.size(), vector.public_key.size());
    EXPECT_EQ(VerifyingKey::FromPem(compressed, "key.pub").hint(), PublicKey(vector).hint());
    EXPECT_EQ(SigningKey::FromPem(PrivatePem(key.get()), "key.pem").hint(),
              PublicKey(vector).hint());
  }
}

TEST(SignatureKeyTest, RejectsAPasswordWithAdvice) {
  const KeyPointer key = Parse(kSignatureVectors[0].private_key);
  ExpectBadInput([&] { SigningKey::FromPem(PrivatePem(key.get(), "secret"), "key.pem"); },
                 "key.pem", "protected by a password", "openssl pkey");
}

TEST(SignatureKeyTest, RejectsOtherKindsOfKeysWithAdvice) {
  const KeyPointer rsa(EVP_RSA_gen(1024));
  const KeyPointer k1(EVP_EC_gen("secp256k1"));
  const KeyPointer ed25519(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  ExpectBadInput([&] { SigningKey::FromPem(PrivatePem(rsa.get()), "k"); }, "k: ", "RSA", "P-256",
                 "openssl genpkey");
  ExpectBadInput([&] { VerifyingKey::FromPem(PublicPem(rsa.get()), "k"); }, "RSA", "P-521");
  ExpectBadInput([&] { SigningKey::FromPem(PrivatePem(k1.get()), "k"); }, "another elliptic curve");
  ExpectBadInput([&] { VerifyingKey::FromPem(PublicPem(ed25519.get()), "k"); }, "ED25519");
}

TEST(SignatureKeyTest, TellsTheHalvesOfAPairApart) {
  const SignatureVector& vector = kSignatureVectors[0];
  ExpectBadInput([&] { SigningKey::FromPem(std::string(vector.public_key), "k"); },
                 "this is a public key");
  ExpectBadInput([&] { VerifyingKey::FromPem(vector.private_key, "k"); }, "this is a private key",
                 "-pubout");
  ExpectBadInput([] { VerifyingKey::FromPem("-----BEGIN CERTIFICATE-----\nMII=\n", "k"); },
                 "certificate", "openssl x509");
}

TEST(SignatureKeyTest, RejectsWhatIsNoKeyAndDoesNotPrintIt) {
  for (const char* text : {"", "secret words", "-----BEGIN PRIVATE KEY-----\nsecret\n",
                           "-----BEGIN PUBLIC KEY-----\nsecret\n-----END PUBLIC KEY-----\n"}) {
    const Error private_error = ErrorOf([&] { SigningKey::FromPem(text, "k"); });
    const Error public_error = ErrorOf([&] { VerifyingKey::FromPem(text, "k"); });
    EXPECT_EQ(private_error.code(), ErrorCode::kBadInput);
    EXPECT_EQ(public_error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(private_error.message(), Not(HasSubstr("secret")));
    EXPECT_THAT(public_error.message(), Not(HasSubstr("secret")));
  }
}

}  // namespace
}  // namespace dsv3::formats
