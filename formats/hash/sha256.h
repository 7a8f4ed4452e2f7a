#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace dsv3::formats {

// SHA-256 (FIPS 180-4), incremental. One instance is used by one thread at a time.
// With SHA-NI (detected at run time) the compression is ours; elsewhere OpenSSL's.
class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;

  Sha256();
  void Update(std::span<const std::byte> data);
  // Ends the stream; the instance must not be used afterwards.
  Digest Finish();
  // Finish() as 64 lowercase hex digits.
  std::string FinishHex();

  // Updates two streams with their data side by side on one thread: with SHA-NI nearly twice as
  // fast as one after the other, because one stream alone waits for the latency of the rounds.
  // The spans may differ in length. The result equals a.Update(a_data); b.Update(b_data).
  static void UpdatePair(Sha256& a, std::span<const std::byte> a_data, Sha256& b,
                         std::span<const std::byte> b_data);

  // Whether UpdatePair gains anything on this machine.
  static bool PairsAreFaster();

 private:
  void UpdateBuffered(std::span<const std::byte>& data);  // until the buffer is empty
  std::array<std::uint32_t, 8> state_;
  std::array<std::byte, 64> buffer_;
  std::size_t buffered_ = 0;
  std::uint64_t total_bytes_ = 0;
};

std::string ToHex(std::span<const std::byte> bytes);

}  // namespace dsv3::formats
