#include "convert/forward/token_ids.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>

#include <fmt/format.h>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/npy.h"
#include "formats/npy_elements.h"
#include "formats/number_of.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kMaxTextBytes = std::uint64_t{64} << 20;
constexpr std::string_view kSpace = " \t\r";

[[noreturn]] void Fail(std::string_view where, const std::string& problem) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: {}", where, problem));
}

// `more`: what else may be given.
std::uint32_t ParseId(std::string_view word, std::string_view where, std::string_view more = "") {
  if (const auto id = formats::NumberOf<std::uint32_t>(word)) return *id;
  Fail(where, fmt::format("{} is not a token id; give whole numbers from 0, such as 1,2,3{}",
                          QuoteForMessage(std::string(word)), more));
}

std::string_view Trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::vector<std::vector<std::uint32_t>> ReadArray(const formats::InputFile& input,
                                                  const std::string& where) {
  const formats::NpyHeader header = formats::ReadNpyHeader(input);
  if (header.shape.empty() || header.shape.size() > 2) {
    Fail(where, fmt::format("the array has shape {}; give one of one dimension, or of two with a "
                            "sequence in each row",
                            formats::ShapeToString(header.shape)));
  }
  const std::vector<std::int64_t> ids = formats::ReadNpyIntegers(input, header);
  const std::size_t width = header.shape.back();
  std::vector<std::vector<std::uint32_t>> sequences;
  for (std::size_t begin = 0; begin < ids.size(); begin += width) {
    std::vector<std::uint32_t>& sequence = sequences.emplace_back();
    for (std::size_t i = begin; i < begin + width; ++i) {
      if (ids[i] < 0 || ids[i] > UINT32_MAX) {
        Fail(where, fmt::format("{} is not a token id; give whole numbers from 0", ids[i]));
      }
      sequence.push_back(static_cast<std::uint32_t>(ids[i]));
    }
  }
  return sequences;
}

std::vector<std::vector<std::uint32_t>> ReadLines(const std::filesystem::path& file,
                                                  const std::string& where) {
  const std::string text = formats::ReadSmallFile(file, kMaxTextBytes);
  std::vector<std::vector<std::uint32_t>> sequences;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    std::replace(line.begin(), line.end(), ',', ' ');
    std::string_view rest = Trim(line);
    if (rest.empty()) continue;
    std::vector<std::uint32_t>& sequence = sequences.emplace_back();
    while (!rest.empty()) {
      const std::size_t size = std::min(rest.find_first_of(kSpace), rest.size());
      sequence.push_back(ParseId(rest.substr(0, size), fmt::format("{}, line {}", where, number)));
      rest = Trim(rest.substr(size));
    }
  }
  return sequences;
}

}  // namespace

std::vector<std::uint32_t> ParseTokenIds(std::string_view text, std::string_view where) {
  std::vector<std::uint32_t> ids;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    ids.push_back(ParseId(Trim(text.substr(begin, end - begin)), where,
                          ", or a file of them with --tokens-file"));
    begin = end + 1;
  }
  return ids;
}

std::vector<std::vector<std::uint32_t>> ReadTokenFile(const std::filesystem::path& file) {
  const std::string where = formats::ShownPath(file);
  const formats::InputFile input(file, where);
  std::vector<std::vector<std::uint32_t>> sequences =
      formats::IsNpy(input) ? ReadArray(input, where) : ReadLines(file, where);
  if (sequences.empty()) Fail(where, "there are no token ids in it; write a sequence on each line");
  return sequences;
}

std::vector<std::vector<std::uint32_t>> FixedTokenIds(std::uint64_t vocabulary,
                                                      std::size_t tokens) {
  constexpr std::uint64_t kStep = 7919;  // a prime, so that the ids spread
  std::vector<std::vector<std::uint32_t>> sequences;
  for (std::size_t i = 0; i < tokens; ++i) {
    if (i % kDefaultTokens == 0) sequences.emplace_back();
    sequences.back().push_back(static_cast<std::uint32_t>((1 + kStep * i) % vocabulary));
  }
  return sequences;
}

void CheckTokenIds(const std::vector<std::vector<std::uint32_t>>& sequences,
                   std::uint64_t vocabulary) {
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].empty()) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("sequence {} has no tokens; give each sequence one at least", s + 1));
    }
    for (std::size_t i = 0; i < sequences[s].size(); ++i) {
      if (sequences[s][i] < vocabulary) continue;
      throw Error(ErrorCode::kUsage,
                  fmt::format("token {} of sequence {} is {}, but the vocabulary of the model has "
                              "the ids 0 to {}",
                              i + 1, s + 1, sequences[s][i], vocabulary - 1));
    }
  }
}

}  // namespace dsv3::convert
