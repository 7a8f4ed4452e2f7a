#include "formats/hash/sha256.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include <openssl/evp.h>

#include "formats/error.h"
#include "formats/hash/sha256_ni.h"

namespace dsv3::formats {
namespace {

constexpr std::size_t kBlockBytes = 64;

constexpr std::array<std::uint32_t, 8> kInitialState = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void CheckOpenSsl(int result) {
  if (result != 1) {
    throw Error(ErrorCode::kInternal,
                "OpenSSL cannot compute SHA-256; check its configuration (openssl dgst -sha256 "
                "must work) or run with --checksum none");
  }
}

void StoreBigEndian(std::uint64_t value, std::size_t bytes, std::byte* out) {
  for (std::size_t i = 0; i < bytes; ++i) {
    out[i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
  }
}

void CompressOne(std::array<std::uint32_t, 8>& state, const std::byte* data, std::size_t blocks) {
  sha256_ni::Lane lane{&state, data};
  sha256_ni::Compress({&lane, 1}, blocks);
}

// The whole blocks that one stream has left.
struct Pending {
  sha256_ni::Lane lane;
  std::size_t blocks;
};

// Always runs the longest streams side by side, so that short ones do not leave a long one alone.
void CompressMany(std::vector<Pending>& pending) {
  std::array<sha256_ni::Lane, sha256_ni::kMaxLanes> lanes;
  while (true) {
    std::erase_if(pending, [](const Pending& p) { return p.blocks == 0; });
    if (pending.empty()) return;
    std::stable_sort(pending.begin(), pending.end(),
                     [](const Pending& a, const Pending& b) { return a.blocks > b.blocks; });
    const std::size_t count = std::min(pending.size(), lanes.size());
    const std::size_t blocks = pending[count - 1].blocks;
    for (std::size_t i = 0; i < count; ++i) lanes[i] = pending[i].lane;
    sha256_ni::Compress(std::span(lanes).first(count), blocks);
    for (std::size_t i = 0; i < count; ++i) {
      pending[i].lane = lanes[i];
      pending[i].blocks -= blocks;
    }
  }
}

}  // namespace

void Sha256::FreeContext::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256(Backend backend) : state_(kInitialState), buffer_() {
  if (backend == Backend::kFastest && sha256_ni::IsSupported()) return;
  openssl_.reset(EVP_MD_CTX_new());
  if (openssl_ == nullptr) throw std::bad_alloc();
  CheckOpenSsl(EVP_DigestInit_ex(openssl_.get(), EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::FillBlock(std::span<const std::byte>& data) {
  const std::size_t count = std::min(kBlockBytes - buffered_, data.size());
  if (count > 0) std::memcpy(buffer_.data() + buffered_, data.data(), count);
  buffered_ += count;
  data = data.subspan(count);
  if (buffered_ == kBlockBytes) {
    CompressOne(state_, buffer_.data(), 1);
    buffered_ = 0;
  }
}

void Sha256::Update(std::span<const std::byte> data) {
  if (openssl_ != nullptr) {
    CheckOpenSsl(EVP_DigestUpdate(openssl_.get(), data.data(), data.size()));
    return;
  }
  total_bytes_ += data.size();
  if (buffered_ > 0) FillBlock(data);
  const std::size_t blocks = data.size() / kBlockBytes;
  if (blocks > 0) CompressOne(state_, data.data(), blocks);
  data = data.subspan(blocks * kBlockBytes);
  if (!data.empty()) FillBlock(data);
}

void Sha256::UpdateMany(std::span<const Part> parts) {
  std::vector<Pending> pending;
  pending.reserve(parts.size());
  for (const Part& part : parts) {
    Sha256& hash = *part.hash;
    if (hash.openssl_ != nullptr) {
      hash.Update(part.data);
      continue;
    }
    std::span<const std::byte> data = part.data;
    hash.total_bytes_ += data.size();
    if (hash.buffered_ > 0) hash.FillBlock(data);
    pending.push_back({{&hash.state_, data.data()}, data.size() / kBlockBytes});
    // Blocks wait for CompressMany; the tail can be put aside now, since it is less than a block
    // and there is only one here if the buffer is empty.
    std::span<const std::byte> tail = data.last(data.size() % kBlockBytes);
    if (!tail.empty()) hash.FillBlock(tail);
  }
  CompressMany(pending);
}

Sha256::Digest Sha256::Finish() {
  Digest digest;
  if (openssl_ != nullptr) {
    CheckOpenSsl(EVP_DigestFinal_ex(openssl_.get(), reinterpret_cast<unsigned char*>(digest.data()),
                                    nullptr));
    return digest;
  }
  // A one bit, zeros, and the length in bits as the last eight bytes of a block.
  std::array<std::byte, 2 * kBlockBytes> end = {};
  std::copy_n(buffer_.begin(), buffered_, end.begin());
  end[buffered_] = std::byte{0x80};
  const std::size_t blocks = buffered_ + 1 + 8 <= kBlockBytes ? 1 : 2;
  StoreBigEndian(total_bytes_ * 8, 8, end.data() + blocks * kBlockBytes - 8);
  CompressOne(state_, end.data(), blocks);
  for (std::size_t i = 0; i < state_.size(); ++i) StoreBigEndian(state_[i], 4, &digest[4 * i]);
  return digest;
}

std::string Sha256::FinishHex() { return ToHex(Finish()); }

std::string ToHex(std::span<const std::byte> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) {
    hex.push_back(kDigits[std::to_integer<unsigned>(byte) >> 4]);
    hex.push_back(kDigits[std::to_integer<unsigned>(byte) & 15]);
  }
  return hex;
}

}  // namespace dsv3::formats
