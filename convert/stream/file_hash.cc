#include "convert/stream/file_hash.h"

#include <vector>

namespace dsv3::convert {

void FileHash::UpdateMany(std::span<const Part> parts) {
  std::vector<formats::Sha256::Part> sha256;
  for (const Part& part : parts) {
    if (part.hash->use_sha256_) {
      sha256.push_back({&part.hash->sha256_, part.data});
    } else {
      part.hash->xxh3_.Update(part.data);
    }
  }
  formats::Sha256::UpdateMany(sha256);
}

}  // namespace dsv3::convert
