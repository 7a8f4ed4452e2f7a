#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convert/forward/columns.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/ranks.h"
#include "quant/matmul.h"

// Weights that ranks share.
namespace dsv3::convert {
namespace {

constexpr std::size_t kMaxOfRanks = 4;

void MultiplyPlain(const WeightPanel& values, std::size_t rows, std::size_t cols,
                   const quant::Activations& in, float* out, std::size_t out_stride) {
  if (values.bf16 != nullptr) {
    quant::MultiplyBF16(values.bf16, rows, cols, in, out, out_stride);
  } else {
    quant::MultiplyF32(values.floats, rows, cols, in, out, out_stride);
  }
}

}  // namespace

ModelWeights& ModelWeights::OfRank(std::uint32_t rank) {
  const auto found = std::find_if(of_ranks_.begin(), of_ranks_.end(),
                                  [&](const auto& weights) { return weights->rank_ == rank; });
  if (found != of_ranks_.end()) {
    std::rotate(of_ranks_.begin(), found, found + 1);
    return *of_ranks_.front();
  }
  // Each has files of its own open.
  if (of_ranks_.size() == kMaxOfRanks) {
    bytes_of_ranks_ += of_ranks_.back()->bytes_read();
    of_ranks_.pop_back();
  }
  of_ranks_.emplace(of_ranks_.begin(),
                    new ModelWeights(model_, values_, threads_, memory_bytes_, progress_, stop_,
                                     ranks_->OriginsFor(rank)));
  ModelWeights& weights = *of_ranks_.front();
  weights.ranks_ = ranks_;
  weights.rank_ = rank;
  weights.names_directory_ = names_directory_;
  return weights;
}

std::vector<std::uint32_t> ModelWeights::DifferingRanks(std::uint32_t tensor) const {
  if (!ranks_) return {};
  std::vector<std::uint32_t> ranks = ranks_->DifferingRanks(tensor);
  if (const ScaledWeight* const scaled = scales_.OfWeight(tensor)) {
    for (const std::uint32_t rank : ranks_->DifferingRanks(scaled->scale)) {
      if (!ranks_->BoxesOf(rank, tensor).empty()) ranks.push_back(rank);
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  }
  return ranks;
}

bool ModelWeights::IsRightOn(std::uint32_t rank, std::uint32_t tensor) const {
  const ScaledWeight* const scaled = scales_.OfWeight(tensor);
  return ranks_->IsRight(rank, tensor) ||
         (scaled != nullptr && ranks_->IsRight(rank, scaled->scale));
}

std::vector<std::uint64_t> ModelWeights::ColumnEnds(const WeightRows& weight) const {
  if (!ranks_ || weight.tensor_cols != 0) return {weight.cols};
  return ranks_->ColumnEnds(weight.tensor);
}

std::uint64_t ModelWeights::bytes_read() const {
  std::uint64_t bytes = reader_.bytes_read();
  // Of the ranks' copies the weights have an account of their own.
  if (ranks_ && !rank_) bytes += ranks_->bytes_read();
  for (const auto& weights : of_ranks_) bytes += weights->bytes_read();
  return bytes + bytes_of_ranks_;
}

std::string ModelWeights::FileOf(std::uint32_t tensor, std::uint64_t row, std::uint64_t col) const {
  if (rank_) return ranks_->FileOf(*rank_, tensor);
  if (ranks_) return ranks_->FileOf(tensor, row, col);
  return model_.catalog.files()[model_.catalog.tensors()[tensor].extent.file].name;
}

void ModelWeights::MultiplyValues(const WeightRows& weight, std::size_t rows,
                                  const WeightPanel& values, const quant::Activations& in,
                                  float* out, std::size_t out_stride) const {
  const auto cols = static_cast<std::size_t>(weight.cols);
  const std::vector<std::uint64_t> ends = ColumnEnds(weight);
  if (ends.size() < 2) return MultiplyPlain(values, rows, cols, in, out, out_stride);
  std::vector<std::uint16_t> bf16;
  std::vector<float> floats;
  std::vector<float> partial(in.tokens * rows);
  std::size_t begin = 0;
  for (const std::uint64_t column : ends) {
    const auto end = static_cast<std::size_t>(column);
    WeightPanel part;
    if (values.bf16 != nullptr) part.bf16 = CutColumns(values.bf16, rows, cols, begin, end, bf16);
    if (values.floats != nullptr) {
      part.floats = CutColumns(values.floats, rows, cols, begin, end, floats);
    }
    const quant::Activations of_part{in.values + begin, in.tokens, in.stride};
    if (begin == 0) {
      MultiplyPlain(part, rows, end, of_part, out, out_stride);
    } else {
      MultiplyPlain(part, rows, end - begin, of_part, partial.data(), rows);
      for (std::size_t token = 0; token < in.tokens; ++token) {
        float* const sum = out + token * out_stride;
        for (std::size_t row = 0; row < rows; ++row) sum[row] += partial[token * rows + row];
      }
    }
    begin = end;
  }
}

}  // namespace dsv3::convert
