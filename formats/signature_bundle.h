#pragma once

#include <string>
#include <string_view>

// The file form of a signature of a model: a Sigstore bundle v0.3 with a DSSE envelope, as OpenSSF
// Model Signing v1.0 profiles it for keys.
namespace dsv3::formats {

struct SignatureBundle {
  std::string hint;       // of the public key; see VerifyingKey::hint. Empty where there is none
  std::string payload;    // the statement's text
  std::string signature;  // DER
};

// The bytes that are signed for a payload: DSSE v1's pre-authentication encoding, "DSSEv1 28
// application/vnd.in-toto+json LENGTH PAYLOAD".
std::string PreAuthenticationEncoding(std::string_view payload);

// The bundle as compact JSON.
std::string BundleText(const SignatureBundle& bundle);

// Throws Error (kBadInput), naming `file`, for a text that is not such a bundle: malformed JSON,
// members that are missing, repeated, of a wrong type or unknown (as far as the schema of the form
// forbids them), malformed base64, another payload type, not exactly one signature, and signatures
// that were made with a certificate or without a key.
SignatureBundle ParseBundle(std::string_view text, const std::string& file);

}  // namespace dsv3::formats
