#pragma once

#include <cstddef>
#include <span>

#include "convert/stream/record.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"

namespace dsv3::convert {

// The digest of a whole file that its FileRecord carries: SHA-256, or XXH3 with checksums off. One
// instance is used by one thread at a time.
class FileHash {
 public:
  // A digest and the bytes that it takes next.
  struct Part {
    FileHash* hash;
    std::span<const std::byte> data;
  };

  explicit FileHash(bool sha256) : use_sha256_(sha256) {}

  void Update(std::span<const std::byte> data) {
    if (use_sha256_) {
      sha256_.Update(data);
    } else {
      xxh3_.Update(data);
    }
  }

  // Updates several different digests, side by side where that is faster (Sha256::UpdateMany).
  static void UpdateMany(std::span<const Part> parts);

  // Ends the stream.
  Digests Finish() {
    Digests digests;
    if (use_sha256_) {
      digests.sha256 = sha256_.FinishHex();
    } else {
      digests.xxh3 = xxh3_.Hex();
    }
    return digests;
  }

 private:
  bool use_sha256_;
  formats::Sha256 sha256_;
  formats::Xxh3 xxh3_;
};

}  // namespace dsv3::convert
