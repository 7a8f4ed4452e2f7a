#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace dsv3::formats {

// SHA-256 (FIPS 180-4), incremental. One instance is used by one thread at a time; it can be moved,
// and a moved-from instance only destroyed or assigned to.
// With SHA-NI (detected at run time) the compression is ours; elsewhere OpenSSL's.
class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;

  enum class Backend {
    kFastest,  // what this machine runs fastest
    kOpenSsl,  // OpenSSL's, on every machine: the fallback, and what tests compare with
  };

  // One stream and the bytes that it takes next; see UpdateMany.
  struct Part {
    Sha256* hash;
    std::span<const std::byte> data;
  };

  explicit Sha256(Backend backend = Backend::kFastest);
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::span<const std::byte> data);
  // Ends the stream; the instance must not be used afterwards.
  Digest Finish();
  // Finish() as 64 lowercase hex digits.
  std::string FinishHex();

  // Updates several different streams side by side on one thread: one stream alone waits for the
  // latency of its rounds, so with SHA-NI two streams are about 1.5 times, three about 1.7 times
  // and four up to 1.9 times as fast as one after the other. The data may differ in length, but
  // only the bytes for which there is a partner gain. The result equals
  // part.hash->Update(part.data) for each.
  static void UpdateMany(std::span<const Part> parts);

 private:
  struct FreeContext {
    void operator()(evp_md_ctx_st* context) const;
  };

  // Adds to the unfinished block until that is full or `data` is used up; what it took is removed
  // from `data`.
  void FillBlock(std::span<const std::byte>& data);

  std::unique_ptr<evp_md_ctx_st, FreeContext> openssl_;  // null: the members below hold the state
  std::array<std::uint32_t, 8> state_;
  std::array<std::byte, 64> buffer_;
  std::size_t buffered_ = 0;  // < 64 between calls
  std::uint64_t total_bytes_ = 0;
};

// Two lowercase hex digits a byte.
std::string ToHex(std::span<const std::byte> bytes);

}  // namespace dsv3::formats
