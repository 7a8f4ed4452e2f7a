#pragma once

#include <cstdio>
#include <cstdlib>

// Stops the fuzzer with a finding when `condition` does not hold.
#define DSV3_FUZZ_REQUIRE(condition)                                               \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)
