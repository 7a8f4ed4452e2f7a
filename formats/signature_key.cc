#include "formats/signature_key.h"

#include <array>
#include <span>

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using BioPointer = std::unique_ptr<BIO, FreeBio>;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using ContextPointer = std::unique_ptr<EVP_MD_CTX, FreeContext>;

struct Curve {
  std::string_view openssl_name;
  std::string_view name;
  const EVP_MD* (*digest)();
};

constexpr std::array<Curve, 3> kCurves = {{
    {"prime256v1", "P-256", EVP_sha256},
    {"secp384r1", "P-384", EVP_sha384},
    {"secp521r1", "P-521", EVP_sha512},
}};

constexpr std::string_view kHowToMakeKeys =
    "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem";

[[noreturn]] void FailKey(const std::string& file, std::string_view problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", ShownPath(file), problem),
              {.file = file, .tensor = {}});
}

// OpenSSL keeps its reasons in a queue that a later call would report.
[[noreturn]] void FailOpenSsl(std::string_view what) {
  std::array<char, 256> reason{};
  ERR_error_string_n(ERR_get_error(), reason.data(), reason.size());
  ERR_clear_error();
  throw Error(ErrorCode::kInternal, fmt::format("OpenSSL cannot {}: {}", what, reason.data()));
}

BioPointer ReadBio(std::string_view text) {
  BioPointer bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!bio) FailOpenSsl("read a key");
  return bio;
}

class WipeAtEnd {
 public:
  explicit WipeAtEnd(std::string& secret) : secret_(secret) {}
  ~WipeAtEnd() { OPENSSL_cleanse(secret_.data(), secret_.size()); }
  WipeAtEnd(const WipeAtEnd&) = delete;
  WipeAtEnd& operator=(const WipeAtEnd&) = delete;

 private:
  std::string& secret_;
};

// Called when a private key wants a password: notes that and gives none.
int NoteThatPasswordIsNeeded(char* /*buffer*/, int /*size*/, int /*writing*/, void* needed) {
  *static_cast<bool*>(needed) = true;
  return -1;
}

// The curve, when it is one that the form knows.
const Curve* FindCurve(const EVP_PKEY* key) {
  if (EVP_PKEY_get_base_id(key) != EVP_PKEY_EC) return nullptr;
  std::array<char, 64> group{};
  std::size_t length = 0;
  if (EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) != 1) {
    ERR_clear_error();
    return nullptr;
  }
  for (const Curve& curve : kCurves) {
    if (curve.openssl_name == std::string_view(group.data(), length)) return &curve;
  }
  return nullptr;
}

const Curve& RequireCurve(const EVP_PKEY* key, const std::string& file) {
  if (const Curve* curve = FindCurve(key)) return *curve;
  const char* type = EVP_PKEY_get0_type_name(key);
  const std::string_view found = type == nullptr ? std::string_view("unknown") : type;
  FailKey(file, fmt::format("{}; signatures of models need a key of the curve P-256, P-384 or "
                            "P-521; {}",
                            found == "EC" ? std::string("this key is of another elliptic curve")
                                          : fmt::format("this key is of the type {}", found),
                            kHowToMakeKeys));
}

std::string Hint(EVP_PKEY* key) {
  // A key may remember that its file had the compressed form; the hint is of the uncompressed one.
  EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT,
                                 OSSL_PKEY_EC_POINT_CONVERSION_FORMAT_UNCOMPRESSED);
  const BioPointer bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_PUBKEY(bio.get(), key) != 1) FailOpenSsl("write a public key");
  char* text = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &text);
  Sha256 hash;
  hash.Update(std::as_bytes(std::span(text, static_cast<std::size_t>(length))));
  return hash.FinishHex();
}

bool HasBlock(std::string_view pem, std::string_view label) {
  return pem.find(fmt::format("-----BEGIN {}-----", label)) != std::string_view::npos;
}

const unsigned char* Bytes(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

const EVP_MD* DigestOf(std::string_view curve_name) {
  for (const Curve& curve : kCurves) {
    if (curve.name == curve_name) return curve.digest();
  }
  return nullptr;
}

}  // namespace

void FreeKey::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

SigningKey SigningKey::FromPem(std::string pem, const std::string& file) {
  const WipeAtEnd wipe(pem);
  const BioPointer bio = ReadBio(pem);
  bool needs_password = false;
  SigningKey key;
  key.key_.reset(
      PEM_read_bio_PrivateKey(bio.get(), nullptr, NoteThatPasswordIsNeeded, &needs_password));
  ERR_clear_error();
  if (needs_password) {
    FailKey(file,
            "this private key is protected by a password, which this tool does not ask for; write "
            "an unprotected copy to a safe place with: openssl pkey -in KEY.pem -out PLAIN.pem");
  }
  if (!key.key_) {
    FailKey(file, HasBlock(pem, "PUBLIC KEY")
                      ? fmt::format("this is a public key; signing needs the private one")
                      : fmt::format("this is not a private key in PEM form; {}", kHowToMakeKeys));
  }
  key.curve_ = RequireCurve(key.key_.get(), file).name;
  key.hint_ = Hint(key.key_.get());
  return key;
}

std::string SigningKey::Sign(std::string_view message) const {
  const ContextPointer context(EVP_MD_CTX_new());
  std::size_t length = 0;
  if (!context ||
      EVP_DigestSignInit(context.get(), nullptr, DigestOf(curve_), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &length, Bytes(message), message.size()) != 1) {
    FailOpenSsl("sign");
  }
  std::string signature(length, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &length,
                     Bytes(message), message.size()) != 1) {
    FailOpenSsl("sign");
  }
  signature.resize(length);
  return signature;
}

VerifyingKey VerifyingKey::FromPem(std::string_view pem, const std::string& file) {
  const BioPointer bio = ReadBio(pem);
  VerifyingKey key;
  key.key_.reset(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!key.key_) {
    std::string_view problem =
        "this is not a public key in PEM form; such a key begins with '-----BEGIN PUBLIC KEY-----'";
    if (pem.find("PRIVATE KEY-----") != std::string_view::npos) {
      problem =
          "this is a private key; verifying needs the public one, which is safe to hand out: "
          "openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem";
    } else if (HasBlock(pem, "CERTIFICATE")) {
      problem =
          "this is a certificate; take the public key out of it with: openssl x509 -in FILE "
          "-pubkey -noout";
    }
    FailKey(file, problem);
  }
  key.curve_ = RequireCurve(key.key_.get(), file).name;
  key.hint_ = Hint(key.key_.get());
  return key;
}

bool VerifyingKey::Verifies(std::string_view message, std::string_view signature) const {
  const ContextPointer context(EVP_MD_CTX_new());
  if (!context ||
      EVP_DigestVerifyInit(context.get(), nullptr, DigestOf(curve_), nullptr, key_.get()) != 1) {
    FailOpenSsl("verify");
  }
  const int result = EVP_DigestVerify(context.get(), Bytes(signature), signature.size(),
                                      Bytes(message), message.size());
  ERR_clear_error();  // errors about bytes that are not a signature at all
  return result == 1;
}

}  // namespace dsv3::formats
