#include "convert/recipes/gguf_tiktoken.h"

#include <array>
#include <charconv>
#include <cstddef>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <unordered_set>

#include <fmt/format.h>

#include "convert/model/config_fields-inl.h"
#include "convert/recipes/byte_characters.h"
#include "formats/base64.h"

namespace dsv3::convert {
namespace {

using RankOf = std::unordered_map<std::string_view, std::uint32_t>;

// The lengths of the parts that merging by ranks below `limit` leaves of a token, byte by byte at
// the beginning.
std::vector<std::size_t> MergeBelow(std::string_view token, std::uint32_t limit,
                                    const RankOf& ranks) {
  std::vector<std::size_t> parts(token.size(), 1);
  for (;;) {
    std::optional<std::size_t> best;
    std::uint32_t least = limit;
    std::size_t begin = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find(token.substr(begin, parts[i] + parts[i + 1]));
      if (found != ranks.end() && found->second < least) {
        least = found->second;
        best = i;
      }
      begin += parts[i];
    }
    if (!best) return parts;
    parts[*best] += parts[*best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(*best) + 1);
  }
}

}  // namespace

TiktokenRanks ParseTiktoken(std::string_view text, std::uint64_t vocab_size,
                            const std::string& file) {
  TiktokenRanks ranks;
  std::unordered_set<std::string> tokens;
  std::unordered_set<std::uint32_t> numbers;
  std::size_t line_number = 0;
  const auto fail = [&](std::string_view problem) {
    FailConfig(file, fmt::format("line {} {}; download the file again, or go on without a "
                                 "tokenizer: --no-tokenizer",
                                 line_number, problem));
  };
  while (!text.empty()) {
    ++line_number;
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    const std::optional<std::string> token = formats::DecodeBase64(line.substr(0, space));
    std::uint32_t number = 0;
    const std::string_view digits =
        space == std::string_view::npos ? std::string_view() : line.substr(space + 1);
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const bool is_number =
        !digits.empty() && error == std::errc() && stop == digits.data() + digits.size();
    if (!token || token->empty() || !is_number) fail("is not a token in base64 and a number");
    if (number >= vocab_size) {
      fail(
          fmt::format("has the number {}, and config.json says vocab_size {}", number, vocab_size));
    }
    if (!tokens.insert(*token).second || !numbers.insert(number).second) {
      fail("has a token or a number that a line before it has");
    }
    ranks.emplace_back(*token, number);
  }
  if (ranks.empty()) FailConfig(file, "it has no tokens; download the file again");
  return ranks;
}

std::string AsByteCharacters(std::string_view bytes) {
  static const std::array<std::string, 256> characters = ByteCharacters();
  std::string text;
  for (const char byte : bytes) text += characters[static_cast<unsigned char>(byte)];
  return text;
}

std::vector<std::string> MergesOfTiktoken(const TiktokenRanks& ranks) {
  RankOf rank_of;
  for (const auto& [token, rank] : ranks) rank_of.emplace(token, rank);
  std::vector<std::string> merges;
  for (const auto& [token, rank] : ranks) {
    if (token.size() == 1) continue;
    const std::vector<std::size_t> parts = MergeBelow(token, rank, rank_of);
    if (parts.size() != 2) continue;
    merges.push_back(fmt::format("{} {}", AsByteCharacters(token.substr(0, parts[0])),
                                 AsByteCharacters(token.substr(parts[0]))));
  }
  return merges;
}

}  // namespace dsv3::convert
