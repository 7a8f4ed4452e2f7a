#pragma once

#include <cfenv>
#include <initializer_list>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace dsv3::quant {

// Sets an unusual floating-point environment for the lifetime of the object. While it is set,
// compare bits, not floats.
class FloatEnvironment {
 public:
  enum class Kind { kRoundUp, kRoundToZero, kFlushSubnormals };
  static constexpr std::initializer_list<Kind> kAll = {Kind::kRoundUp, Kind::kRoundToZero,
                                                       Kind::kFlushSubnormals};

  explicit FloatEnvironment(Kind kind) {
    std::fegetenv(&saved_);
    switch (kind) {
      case Kind::kRoundUp:
        std::fesetround(FE_UPWARD);
        break;
      case Kind::kRoundToZero:
        std::fesetround(FE_TOWARDZERO);
        break;
      case Kind::kFlushSubnormals:
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8040U);  // FTZ and DAZ
#endif
        break;
    }
  }
  ~FloatEnvironment() { std::fesetenv(&saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::fenv_t saved_{};
};

}  // namespace dsv3::quant
