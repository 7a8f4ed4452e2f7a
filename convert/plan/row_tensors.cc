#include "convert/plan/row_tensors.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/model/code_names.h"
#include "convert/plan/assemble_expression.h"
#include "convert/plan/composed_expression.h"
#include "convert/plan/origin_expression.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Shape;

constexpr std::uint64_t kCodesOfWord = 8;
constexpr std::uint64_t kWordBytes = 4;

// Which four bits of a word, from the lowest on, hold the code of each of its eight rows.
constexpr std::array<unsigned, kCodesOfWord> kPlaceOfRow = {0, 4, 1, 5, 2, 6, 3, 7};

std::uint32_t LoadWord(const std::byte* from) {
  std::uint32_t word = 0;
  std::memcpy(&word, from, sizeof word);
  return word;
}

void StoreWord(std::uint32_t word, std::byte* to) { std::memcpy(to, &word, sizeof word); }

// The tensor with its rows and columns swapped. Its elements are words of codes or scales.
ExpressionPtr Transposed(const Catalog& catalog, std::uint32_t position) {
  const CatalogTensor& tensor = catalog.tensors()[position];
  const std::uint64_t rows = tensor.shape[1];
  const std::uint64_t cols = tensor.shape[0];
  Tile tile;
  tile.target = {0, rows, 0, cols};
  tile.tensor = position;
  tile.row_step = 1;
  tile.col_step = rows;
  return Assemble(catalog, tensor.name, tensor.dtype, {rows, cols}, {tile});
}

// What is made of the words of a transposed tensor: rule "transpose".
class FromWords : public OriginExpression {
 public:
  FromWords(ExpressionPtr words, Shape shape)
      : OriginExpression(std::move(words), Dtype::kI32, std::move(shape)) {}

  std::string_view rule() const override { return "transpose"; }
  bool streams_whole_source() const override { return false; }

  std::uint64_t CutAtOrBefore(std::uint64_t position) const override {
    return origin().CutAtOrBefore(position);
  }
  std::uint64_t CutAfter(std::uint64_t position) const override {
    return origin().CutAfter(position);
  }
  // The words are held beside what they are made of.
  std::uint64_t input_bytes_per_output_byte() const override {
    return origin().input_bytes_per_output_byte() + 1;
  }

  void AppendReads(std::uint64_t begin, std::uint64_t end,
                   std::vector<SourceRange>& reads) const override {
    origin().AppendReads(begin, end, reads);
  }

  void Evaluate(std::uint64_t begin, std::uint64_t end,
                std::span<const std::span<const std::byte>> inputs,
                EvaluationOutput& out) const override {
    std::vector<std::byte> words(static_cast<std::size_t>(end - begin));
    EvaluationOutput made{words, {}, {}};
    origin().Evaluate(begin, end, inputs, made);
    Convert(words, out.value.data());
  }

 private:
  // Whole rows of words.
  virtual void Convert(std::span<const std::byte> words, std::byte* to) const = 0;
};

// Words of which each keeps its codes: those of eight rows and one column.
class ZeroPoints final : public FromWords {
 public:
  explicit ZeroPoints(const ExpressionPtr& words) : FromWords(words, words->shape()) {}

 private:
  void Convert(std::span<const std::byte> words, std::byte* to) const override {
    for (std::size_t at = 0; at < words.size(); at += kWordBytes) {
      StoreWord(InRowOrder(LoadWord(words.data() + at)), to + at);
    }
  }
};

// Words of eight rows and one column to words of one row and eight columns.
class Codes final : public FromWords {
 public:
  explicit Codes(const ExpressionPtr& words)
      : FromWords(words, {words->shape()[0] * kCodesOfWord, words->shape()[1] / kCodesOfWord}),
        row_words_(static_cast<std::size_t>(shape()[1])) {}

 private:
  void Convert(std::span<const std::byte> words, std::byte* to) const override {
    const std::size_t row_bytes = row_words_ * kWordBytes;
    const std::size_t eight_rows = row_bytes * kCodesOfWord;
    for (std::size_t at = 0; at < words.size(); at += eight_rows) {
      for (std::size_t i = 0; i < row_words_; ++i) {
        std::array<std::uint32_t, kCodesOfWord> square;
        std::memcpy(square.data(), words.data() + at + i * sizeof square, sizeof square);
        Transpose(square);
        for (std::size_t row = 0; row < kCodesOfWord; ++row) {
          StoreWord(square[kPlaceOfRow[row]], to + at + row * row_bytes + i * kWordBytes);
        }
      }
    }
  }

  // Eight words of eight codes: code j of word i becomes code i of word j. Squares of half the size
  // change places, then those within them.
  static void Transpose(std::array<std::uint32_t, kCodesOfWord>& words) {
    Swap<4>(0x0000FFFFU, words);
    Swap<2>(0x00FF00FFU, words);
    Swap<1>(0x0F0F0F0FU, words);
  }

  template <std::size_t kSize>
  static void Swap(std::uint32_t lower, std::array<std::uint32_t, kCodesOfWord>& words) {
    for (std::size_t i = 0; i < kCodesOfWord; ++i) {
      if ((i & kSize) != 0) continue;
      const std::uint32_t differ = (words[i] >> (4 * kSize) ^ words[i + kSize]) & lower;
      words[i + kSize] ^= differ;
      words[i] ^= differ << (4 * kSize);
    }
  }

  const std::size_t row_words_;
};

using ByTensor = std::unordered_map<std::uint32_t, const ScaledWeight*>;

}  // namespace

bool IsByColumns(const Catalog& catalog, const ScaledWeight& weight) {
  return AreKeptByColumns(catalog.tensors()[weight.weight].name);
}

std::uint32_t InRowOrder(std::uint32_t word) {
  std::uint32_t in_order = 0;
  for (unsigned row = 0; row < kCodesOfWord; ++row) {
    in_order |= (word >> (4 * kPlaceOfRow[row]) & 0xFU) << (4 * row);
  }
  return in_order;
}

ExpressionPtr ByRows(const Catalog& catalog, const ScaledWeight& weight, std::uint32_t tensor) {
  const bool is_part = tensor == weight.weight || tensor == weight.scale || tensor == weight.zeros;
  if (!IsByColumns(catalog, weight) || !is_part || catalog.tensors()[tensor].shape.size() != 2 ||
      weight.cols % kCodesOfWord != 0) {
    throw Error(ErrorCode::kInternal, "a tensor that is not kept by columns is to be put by rows",
                {"", catalog.tensors()[tensor].name});
  }
  ExpressionPtr transposed = Transposed(catalog, tensor);
  if (tensor == weight.weight) return std::make_shared<Codes>(transposed);
  if (tensor == weight.zeros) return std::make_shared<ZeroPoints>(transposed);
  return transposed;
}

RowTensors::RowTensors(const Catalog& catalog, std::span<const ScaledWeight> weights,
                       std::vector<DerivedTensors> derived)
    : derived_(std::move(derived)) {
  ByTensor by_columns;
  for (const ScaledWeight& weight : weights) {
    if (!IsByColumns(catalog, weight)) continue;
    for (const std::uint32_t part : {weight.weight, weight.scale, weight.zeros}) {
      if (part != Catalog::kNone) by_columns.emplace(part, &weight);
    }
  }
  if (by_columns.empty()) return;
  const auto origin_of = [&](std::uint32_t tensor) {
    const auto found = by_columns.find(tensor);
    return found == by_columns.end() ? Copy(catalog, tensor)
                                     : ByRows(catalog, *found->second, tensor);
  };
  for (DerivedTensors& tensors : derived_) {
    std::vector<ExpressionPtr>& origins =
        origins_.emplace_back(tensors.origins.begin(), tensors.origins.end());
    for (std::uint32_t i = 0; i < origins.size(); ++i) {
      const auto found = by_columns.find(tensors.first + i);
      if (found == by_columns.end()) continue;
      origins[i] =
          Compose(ByRows(catalog, *found->second, found->first),
                  [&](std::uint32_t tensor) { return tensors.origins[tensor - tensors.first]; });
    }
    std::erase_if(by_columns, [&](const auto& each) { return tensors.Holds(each.first); });
    tensors.origins = origins;
  }
  if (by_columns.empty()) return;
  // Those that lie in files, and what is between them, as it is.
  const auto [first, last] =
      std::minmax_element(by_columns.begin(), by_columns.end(),
                          [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ExpressionPtr>& origins = origins_.emplace_back();
  for (std::uint32_t i = first->first; i <= last->first; ++i) origins.push_back(origin_of(i));
  derived_.push_back({.stored = &catalog, .origins = origins, .first = first->first});
}

}  // namespace dsv3::convert
