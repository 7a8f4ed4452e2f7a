#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// The innermost part of attention: softmax of scores, and the weighted sum of values. An internal
// part of forward.h.
namespace dsv3::convert {

// What a head knows of the positions of one sequence. Position i has its key at keys + i *
// key_stride, and so on; a key has a part of its own and a rotary part.
struct HeadMemory {
  const float* keys = nullptr;
  std::size_t key_stride = 0;
  std::size_t key_size = 0;
  const float* rope_keys = nullptr;  // one behind the other
  std::size_t rope_size = 0;
  const float* values = nullptr;
  std::size_t value_stride = 0;
  std::size_t value_size = 0;
};

// Some neighbouring rows of that sequence: the query of row r is at queries + r * query_stride, its
// rotary part likewise, and its position is `position` + r.
struct HeadQueries {
  const float* queries = nullptr;
  std::size_t query_stride = 0;
  const float* rope_queries = nullptr;
  std::size_t rope_stride = 0;
  std::size_t count = 0;
  std::size_t position = 0;
  // The positions that each row attends to, ascending; empty or nullptr: all up to its own.
  const std::vector<std::uint32_t>* chosen = nullptr;
  float scale = 1;
  // Results; they may take the place of the queries, not of their rotary parts.
  float* out = nullptr;
  std::size_t out_stride = 0;
};

// Rows that are best attended together.
inline constexpr std::size_t kAttendedRows = 8;

// out = Σ softmax((query · key + rotary query · rotary key) · scale) · value, the positions in
// their order. The result of a row does not depend on the other rows. Thread-safe.
void Attend(const HeadQueries& rows, const HeadMemory& memory);

}  // namespace dsv3::convert
