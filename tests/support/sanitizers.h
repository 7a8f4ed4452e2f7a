#pragma once

#include <cstddef>
#include <vector>

namespace dsv3::testing {

// Whether AddressSanitizer or ThreadSanitizer watches this build.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DSV3_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DSV3_SANITIZED 1
#endif
#if defined(DSV3_SANITIZED)
inline constexpr bool kSanitized = true;
#undef DSV3_SANITIZED
#else
inline constexpr bool kSanitized = false;
#endif

// How far a test that does the same with many inputs goes on in their list: it takes all of them,
// and every `step`th under sanitizers, which make each ten times as slow.
constexpr std::size_t Stride(std::size_t step) { return kSanitized ? step : 1; }

// The inputs that such a test takes.
template <typename T>
std::vector<T> Thinned(const std::vector<T>& inputs, std::size_t step) {
  std::vector<T> taken;
  for (std::size_t i = 0; i < inputs.size(); i += Stride(step)) taken.push_back(inputs[i]);
  return taken;
}

}  // namespace dsv3::testing
