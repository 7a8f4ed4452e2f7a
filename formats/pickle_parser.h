#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "formats/pickle.h"

namespace dsv3::formats {

inline constexpr std::size_t kMaxPickleBytes = 96'000'000;
// Of values, beside those of one integer from 0 to 255, None, True, False and ().
inline constexpr std::size_t kMaxPickleValues = 12'000'000;
inline constexpr std::size_t kMaxPickleIntegerBytes = 32;

// The globals that a pickle may name, by their full names ("torch.Size") or how these begin
// ("megatron.").
struct PickleGlobals {
  std::span<const std::string_view> names;
  std::span<const std::string_view> prefixes;
};

// How errors call a pickle.
struct PickleSource {
  std::string_view file;    // "m.pt"
  std::string_view part;    // "data.pkl", "the file"
  std::string_view advice;  // "the file is damaged or incomplete, copy it again"
};

// Parses a pickle of protocol 2 to 5 in one pass, calling nothing. Refuses, each with its place:
// a global that `allowed` does not have, by its full name and wherever the pickle names it; opcodes
// that checkpoints do not need, by their names; what is malformed or cut off, and bytes behind the
// end; text that is not UTF-8; lengths and memo indexes beyond the text; integers of more than
// kMaxPickleIntegerBytes; values that contain themselves, or change after another one took them;
// nesting beyond Pickle::kMaxDepth; and pickles beyond the limits above. Time is linear; memory is
// a small multiple of the text's length, at most about 250 MB beside it.
// `text` must outlive the result. Throws Error (kBadInput).
Pickle ParsePickle(std::string_view text, const PickleGlobals& allowed, const PickleSource& source);

// Throws the Error (kBadInput) of a pickle beyond kMaxPickleBytes, before it is read.
void RequirePickleBytes(std::uint64_t bytes, const PickleSource& source);

}  // namespace dsv3::formats
