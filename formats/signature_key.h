#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_pkey_st;

// Keys of elliptic curves in PEM files, as OpenSSF Model Signing v1.0 uses them: P-256 with
// SHA-256, P-384 with SHA-384, P-521 with SHA-512. By OpenSSL.
namespace dsv3::formats {

struct FreeKey {
  void operator()(evp_pkey_st* key) const;
};
using KeyPointer = std::unique_ptr<evp_pkey_st, FreeKey>;

// A private key. Nothing prints it, and its bytes are wiped when it is destroyed. Not for use by
// several threads at once.
class SigningKey {
 public:
  // `pem` is a file's text, which is wiped: PKCS #8 or SEC 1, without a password. `file` is its
  // name for errors. Throws Error (kBadInput) for anything else; the message says what to do.
  static SigningKey FromPem(std::string pem, const std::string& file);

  // The ECDSA signature of `message` in DER form; each call gives another one.
  std::string Sign(std::string_view message) const;

  // See VerifyingKey::hint.
  const std::string& hint() const { return hint_; }
  // "P-256", "P-384" or "P-521".
  std::string_view curve() const { return curve_; }

 private:
  SigningKey() = default;

  KeyPointer key_;
  std::string hint_;
  std::string_view curve_;
};

// A public key. Not for use by several threads at once.
class VerifyingKey {
 public:
  // `pem` is a file's text: SubjectPublicKeyInfo ("BEGIN PUBLIC KEY"). Throws Error (kBadInput) for
  // anything else, a private key included; the message says what to do.
  static VerifyingKey FromPem(std::string_view pem, const std::string& file);

  // Whether `signature` is one of `message` by this key's owner.
  bool Verifies(std::string_view message, std::string_view signature) const;

  // The name of the key in a bundle: lowercase hex SHA-256 of the key's SubjectPublicKeyInfo in PEM
  // form with the point uncompressed, the final line end included, as `openssl pkey -pubout` prints
  // it.
  const std::string& hint() const { return hint_; }
  std::string_view curve() const { return curve_; }

 private:
  VerifyingKey() = default;

  KeyPointer key_;
  std::string hint_;
  std::string_view curve_;
};

}  // namespace dsv3::formats
