#include "formats/zstd_result.h"

#include <new>

#include <fmt/format.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "formats/error.h"

namespace dsv3::formats {

std::size_t CheckedZstd(std::size_t result, std::string_view what) {
  if (ZSTD_isError(result) == 0) return result;
  if (ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation) throw std::bad_alloc();
  throw Error(ErrorCode::kInternal,
              fmt::format("{}: zstd says {}", what, QuoteForMessage(ZSTD_getErrorName(result))));
}

std::string_view ZstdFault(std::size_t result) {
  switch (ZSTD_getErrorCode(result)) {
    case ZSTD_error_memory_allocation:
      throw std::bad_alloc();
    case ZSTD_error_checksum_wrong:
      return "its checksum is not that of its content";
    case ZSTD_error_frameParameter_windowTooLarge:
      return "its window is too large";
    default:
      return "zstd cannot decode it";
  }
}

}  // namespace dsv3::formats
