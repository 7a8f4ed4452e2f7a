#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>

#include "convert/forward/read_ahead.h"

// An internal part of forward.h.
namespace dsv3::convert {

// Bytes of rows that stay in memory for the steps of a generation, each of which reads most weights
// again. Rows are kept that are read a second time, and they stay: the steps go through the weights
// in one order, so what was used least recently is needed next. All functions but Begin may be
// called by several threads at once.
class KeptRows {
 public:
  // From now on rows are kept, as many as this memory has room for.
  void Begin(std::uint64_t memory_bytes) { free_bytes_ = memory_bytes; }
  // nullptr: they are not kept. Valid as long as this object.
  const RowBytes* Find(const TensorRows& rows) const;
  // Rows that were not found are read now. Whether they are to be kept, which takes so much memory.
  bool Admit(const TensorRows& rows, std::uint64_t bytes);
  // Keeps rows that were admitted, and returns what is kept of them: the first of equal ones.
  const RowBytes& Keep(const TensorRows& rows, RowBytes bytes);

 private:
  mutable std::mutex mutex_;
  std::uint64_t free_bytes_ = 0;
  std::set<TensorRows::Key> read_once_;
  std::map<TensorRows::Key, RowBytes> kept_;
};

}  // namespace dsv3::convert
