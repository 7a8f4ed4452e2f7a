#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace dsv3::formats {

// XXH3-128 by libxxhash, seed 0: finds accidental changes at memory speed; no protection against
// an adversary. One instance is used by one thread at a time.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(Xxh3&&) noexcept;
  Xxh3& operator=(Xxh3&&) noexcept;

  void Update(std::span<const std::byte> data);
  // 32 lowercase hex digits, high half first (libxxhash's canonical form). Does not end the stream.
  std::string Hex() const;
  void Reset();

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

// Digest of one span, or of a text.
std::string Xxh3Hex(std::span<const std::byte> data);
std::string Xxh3Hex(std::string_view text);

}  // namespace dsv3::formats
