#pragma once

#include <cstddef>
#include <string_view>

// What functions of libzstd return; an internal part of zstd_frame.h and zstd_stream.h.
namespace dsv3::formats {

// The result of a call that fails only by a mistake of this program; `what` says what it does, for
// the message. Throws Error (kInternal) for one that failed, std::bad_alloc where memory is short.
std::size_t CheckedZstd(std::size_t result, std::string_view what);

// What is wrong with data that could not be decoded, by the result that says so. Throws
// std::bad_alloc where memory is short.
std::string_view ZstdFault(std::size_t result);

}  // namespace dsv3::formats
