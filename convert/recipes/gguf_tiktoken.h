#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv3::convert {

// The tokens of a tiktoken file and their numbers, in the order of the file. The number is also the
// rank by which pairs are merged: the least first.
using TiktokenRanks = std::vector<std::pair<std::string, std::uint32_t>>;

// Reads a tiktoken file: a line for each token with its bytes in base64 and its number, which is
// below `vocab_size`. Throws Error (kBadInput) that names file and line for anything else, and for
// tokens and numbers that come twice.
TiktokenRanks ParseTiktoken(std::string_view text, std::uint64_t vocab_size,
                            const std::string& file);

// The merges of byte-level BPE that give the same tokens: for each token of several bytes the two
// that merging by lower ranks leaves of it, where it leaves two. In the order of the tokens; each
// "a b", in the characters of ByteCharacters.
std::vector<std::string> MergesOfTiktoken(const TiktokenRanks& ranks);

// Bytes in the characters of ByteCharacters.
std::string AsByteCharacters(std::string_view bytes);

}  // namespace dsv3::convert
