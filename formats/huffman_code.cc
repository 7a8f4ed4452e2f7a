#include "formats/huffman_code.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "formats/fse_weights.h"

namespace dsv3::formats {
namespace {

struct CountedSymbol {
  std::uint32_t count;
  std::uint8_t symbol;
};

// Ascending by count, then by symbol.
std::vector<CountedSymbol> PresentSymbols(const ByteCounts& counts) {
  std::vector<CountedSymbol> symbols;
  symbols.reserve(counts.size());
  for (std::size_t symbol = 0; symbol < counts.size(); ++symbol) {
    if (counts[symbol] == 0) continue;
    symbols.push_back({counts[symbol], static_cast<std::uint8_t>(symbol)});
  }
  std::sort(symbols.begin(), symbols.end(), [](const CountedSymbol& a, const CountedSymbol& b) {
    return a.count != b.count ? a.count < b.count : a.symbol < b.symbol;
  });
  return symbols;
}

// The lengths of the codes by the package-merge algorithm (Larmore and Hirschberg, 1990), in the
// order of `symbols`. A level's items are the symbols and the pairs of items of the level before,
// by weight; of the last one the first 2n − 2 are taken, and a symbol's code has a bit for each
// level at which it is.
std::vector<std::uint8_t> CodeLengths(const std::vector<CountedSymbol>& symbols) {
  constexpr std::size_t kMostItems = std::size_t{2} * 256;
  using Weights = std::array<std::uint32_t, kMostItems>;
  const std::size_t n = symbols.size();
  std::array<std::array<std::uint8_t, kMostItems>, kLongestHuffmanCode> are_symbols;
  std::array<Weights, 2> weights;
  std::size_t before = 0;  // items of the level before
  for (unsigned i = 0; i < kLongestHuffmanCode; ++i) {
    const Weights& pairs = weights[i % 2];
    Weights& level = weights[(i + 1) % 2];
    std::size_t items = 0;
    std::size_t symbol = 0;
    std::size_t pair = 0;
    while (symbol < n || pair + 1 < before) {
      const bool is_symbol = pair + 1 >= before ||
                             (symbol < n && symbols[symbol].count <= pairs[pair] + pairs[pair + 1]);
      are_symbols[i][items] = is_symbol ? 1 : 0;
      level[items++] = is_symbol ? symbols[symbol].count : pairs[pair] + pairs[pair + 1];
      symbol += is_symbol ? 1 : 0;
      pair += is_symbol ? 0 : 2;
    }
    before = items;
  }
  std::vector<std::uint8_t> lengths(n);
  std::size_t taken = 2 * n - 2;
  for (unsigned i = kLongestHuffmanCode; i-- > 0 && taken > 0;) {
    std::size_t of_symbols = 0;
    for (std::size_t k = 0; k < taken; ++k) of_symbols += are_symbols[i][k];
    for (std::size_t k = 0; k < of_symbols; ++k) ++lengths[k];
    taken = 2 * (taken - of_symbols);
  }
  return lengths;
}

// Codes ascend from the longest on, and by symbol where they are as long.
void AssignCodes(HuffmanCode& code) {
  std::array<unsigned, kLongestHuffmanCode + 1> counts{};
  for (const std::uint8_t length : code.lengths) ++counts[length];
  std::array<unsigned, kLongestHuffmanCode + 1> next{};  // code of each length
  for (unsigned length = code.longest; length > 1; --length) {
    next[length - 1] = (next[length] + counts[length]) >> 1;
  }
  for (std::size_t symbol = 0; symbol < code.lengths.size(); ++symbol) {
    const unsigned length = code.lengths[symbol];
    if (length != 0) code.codes[symbol] = static_cast<std::uint16_t>(next[length]++);
  }
}

}  // namespace

HuffmanCode MakeHuffmanCode(const ByteCounts& counts) {
  const std::vector<CountedSymbol> symbols = PresentSymbols(counts);
  const std::vector<std::uint8_t> lengths = CodeLengths(symbols);
  HuffmanCode code;
  for (std::size_t i = 0; i < symbols.size(); ++i) code.lengths[symbols[i].symbol] = lengths[i];
  code.longest = *std::max_element(lengths.begin(), lengths.end());
  AssignCodes(code);
  return code;
}

std::vector<std::byte> DescribeHuffmanCode(const HuffmanCode& code) {
  // Weight w: 2^(w−1) of the 2^longest shares of all codes. That of the last symbol is what is
  // left.
  std::vector<std::uint8_t> weights;
  for (const std::uint8_t length : code.lengths) {
    weights.push_back(length == 0 ? std::uint8_t{0}
                                  : static_cast<std::uint8_t>(code.longest + 1 - length));
  }
  while (weights.back() == 0) weights.pop_back();
  weights.pop_back();

  constexpr std::size_t kMostDirectWeights = 128;
  std::vector<std::byte> stream = EncodeFseWeights(weights);
  const std::size_t direct_bytes = (weights.size() + 1) / 2;
  if (!stream.empty() && (weights.size() > kMostDirectWeights || stream.size() < direct_bytes)) {
    stream.insert(stream.begin(), static_cast<std::byte>(stream.size()));
    return stream;
  }
  if (weights.size() > kMostDirectWeights) return {};
  std::vector<std::byte> direct{static_cast<std::byte>(127 + weights.size())};
  weights.push_back(0);
  for (std::size_t i = 0; i + 1 < weights.size(); i += 2) {
    direct.push_back(static_cast<std::byte>(weights[i] << 4 | weights[i + 1]));
  }
  return direct;
}

}  // namespace dsv3::formats
