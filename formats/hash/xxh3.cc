#include "formats/hash/xxh3.h"

#include <new>

#include <xxhash.h>

#include "formats/hash/sha256.h"

// libxxhash proper is built for the baseline instruction set; builds for x86 that also carry the
// run-time dispatch (AVX2, AVX-512) export this. Weak, because not every build does.
extern "C" __attribute__((weak)) XXH_errorcode XXH3_128bits_update_dispatch(XXH3_state_t* state,
                                                                            const void* input,
                                                                            size_t bytes);

namespace dsv3::formats {
namespace {

std::string CanonicalHex(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return ToHex(std::as_bytes(std::span(canonical.digest)));
}

}  // namespace

void Xxh3::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  Reset();
}

Xxh3::~Xxh3() = default;
Xxh3::Xxh3(Xxh3&&) noexcept = default;
Xxh3& Xxh3::operator=(Xxh3&&) noexcept = default;

void Xxh3::Reset() { XXH3_128bits_reset(state_.get()); }

void Xxh3::Update(std::span<const std::byte> data) {
  if (data.empty()) return;  // an empty span may hold a null pointer
  if (XXH3_128bits_update_dispatch != nullptr) {
    XXH3_128bits_update_dispatch(state_.get(), data.data(), data.size());
  } else {
    XXH3_128bits_update(state_.get(), data.data(), data.size());
  }
}

std::string Xxh3::Hex() const { return CanonicalHex(XXH3_128bits_digest(state_.get())); }

std::string Xxh3Hex(std::span<const std::byte> data) {
  Xxh3 hash;
  hash.Update(data);
  return hash.Hex();
}

std::string Xxh3Hex(std::string_view text) { return Xxh3Hex(std::as_bytes(std::span(text))); }

}  // namespace dsv3::formats
