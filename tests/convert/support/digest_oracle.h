#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <openssl/evp.h>
#include <xxhash.h>

namespace dsv3::testing {

// Digests as hex, by other code than that under test.
inline std::string Sha256Of(std::string_view bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < length; ++i) {
    char text[3];
    std::snprintf(text, sizeof(text), "%02x", digest[i]);
    hex += text;
  }
  return hex;
}

inline std::string Xxh3Of(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  char hex[33];
  std::snprintf(hex, sizeof(hex), "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return hex;
}

}  // namespace dsv3::testing
