#include "convert/forward/kept_rows.h"

#include <utility>

namespace dsv3::convert {

const RowBytes* KeptRows::Find(const TensorRows& rows) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(rows.key());
  return found == kept_.end() ? nullptr : &found->second;
}

bool KeptRows::Admit(const TensorRows& rows, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > free_bytes_ || read_once_.insert(rows.key()).second) return false;
  free_bytes_ -= bytes;
  return true;
}

const RowBytes& KeptRows::Keep(const TensorRows& rows, RowBytes bytes) {
  const std::lock_guard lock(mutex_);
  return kept_.try_emplace(rows.key(), std::move(bytes)).first->second;
}

}  // namespace dsv3::convert
