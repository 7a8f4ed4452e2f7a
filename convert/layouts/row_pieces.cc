#include "convert/layouts/row_pieces.h"

#include <utility>

namespace dsv3::convert {
namespace {

// Collects runs of rows; runs that follow each other become one.
class Runs {
 public:
  void Add(std::uint64_t begin, std::uint64_t count) {
    if (count == 0) return;
    if (!runs_.empty() && runs_.back().end == begin) {
      runs_.back().end += count;
    } else {
      runs_.push_back({begin, begin + count});
    }
  }
  void AddSorted(std::uint64_t begin, std::uint64_t count) {
    for (std::uint64_t first = 0; first < 2; ++first) {
      for (std::uint64_t row = first; row < count; row += 2) Add(begin + row, 1);
    }
  }
  std::vector<RowRun> Take() { return std::move(runs_); }

 private:
  std::vector<RowRun> runs_;
};

}  // namespace

std::vector<RowRun> RowsOf(RowPiece piece, const ModelConfig& config, std::uint64_t rows) {
  if (piece == RowPiece::kAll) return {{0, rows}};
  const std::uint64_t nope = config.qk_nope_head_dim;
  const std::uint64_t rope = config.qk_rope_head_dim;
  const std::uint64_t values = config.v_head_dim;
  const std::uint64_t latent = config.kv_lora_rank;
  Runs runs;
  for (std::uint64_t head = 0; head < config.num_attention_heads; ++head) {
    const std::uint64_t query = head * (nope + rope);
    const std::uint64_t keys = head * (nope + values);
    if (piece == RowPiece::kQueryNope || piece == RowPiece::kQuerySorted) runs.Add(query, nope);
    if (piece == RowPiece::kQueryRopeSorted || piece == RowPiece::kQuerySorted) {
      runs.AddSorted(query + nope, rope);
    }
    if (piece == RowPiece::kKeys) runs.Add(keys, nope);
    if (piece == RowPiece::kValues) runs.Add(keys + nope, values);
  }
  if (piece == RowPiece::kLatent || piece == RowPiece::kLatentSorted) runs.Add(0, latent);
  if (piece == RowPiece::kKeyRopeSorted || piece == RowPiece::kLatentSorted) {
    runs.AddSorted(latent, rope);
  }
  return runs.Take();
}

}  // namespace dsv3::convert
