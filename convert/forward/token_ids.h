#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

// Token ids as users give them.
namespace dsv3::convert {

// "1,2,3": whole numbers with commas between them, spaces around them allowed. `where` begins
// messages: "--tokens". Throws Error (kUsage) for anything else.
std::vector<std::uint32_t> ParseTokenIds(std::string_view text, std::string_view where);

// Sequences of token ids from a file: a sequence a line, with commas or spaces between ids and
// empty lines left out; or an array of integers in NumPy's format, a row each (one row where it has
// one dimension). Throws Error: kUsage for a file without ids, or with what are none; kBadInput for
// a damaged array or a file that is missing; kIo.
std::vector<std::vector<std::uint32_t>> ReadTokenFile(const std::filesystem::path& file);

// The ids that run where none are given.
inline constexpr std::size_t kDefaultTokens = 64;
// So many fixed ids, in sequences of kDefaultTokens; of two counts the larger one's begin with the
// smaller one's. `tokens` is a multiple of kDefaultTokens.
std::vector<std::vector<std::uint32_t>> FixedTokenIds(std::uint64_t vocabulary,
                                                      std::size_t tokens = kDefaultTokens);
inline constexpr std::size_t kMostAutoTokens = 4096;

// Throws Error (kUsage) for a sequence without ids, and for an id that the vocabulary lacks.
void CheckTokenIds(const std::vector<std::vector<std::uint32_t>>& sequences,
                   std::uint64_t vocabulary);

}  // namespace dsv3::convert
