#pragma once

#include <cstdint>
#include <vector>

#include "convert/model/model_config.h"

// Pieces of the rows of attention weights that layouts keep apart or in another order.
namespace dsv3::convert {

// A row of RoPE in a Hugging Face weight is one of a pair; "sorted" are first all even rows, then
// all odd ones. A head of q_b_proj has qk_nope_head_dim rows without RoPE and then qk_rope_head_dim
// rows with it; a head of kv_b_proj has qk_nope_head_dim rows of keys and then v_head_dim of
// values; kv_a_proj_with_mqa has kv_lora_rank rows and then qk_rope_head_dim rows with RoPE.
enum class RowPiece {
  kAll,
  kQueryNope,        // of q_b_proj, of all heads
  kQueryRopeSorted,  // of q_b_proj, of all heads
  kQuerySorted,      // all of q_b_proj, RoPE sorted in each head
  kLatent,           // of kv_a_proj_with_mqa
  kKeyRopeSorted,    // of kv_a_proj_with_mqa
  kLatentSorted,     // all of kv_a_proj_with_mqa, RoPE sorted
  kKeys,             // of kv_b_proj, of all heads
  kValues,           // of kv_b_proj, of all heads
};

// Rows [begin, end) of a weight.
struct RowRun {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// The rows of a weight that make a piece, in the piece's order. `rows` is how many the weight has.
std::vector<RowRun> RowsOf(RowPiece piece, const ModelConfig& config, std::uint64_t rows);

}  // namespace dsv3::convert
