#pragma once

#include <semaphore>

namespace dsv3::convert {

// Bounds the number of threads that compute at the same time: a worker holds a slot while it
// computes.
class ComputeSlot {
 public:
  explicit ComputeSlot(std::counting_semaphore<>& slots) : slots_(slots) { slots_.acquire(); }
  ~ComputeSlot() { slots_.release(); }
  ComputeSlot(const ComputeSlot&) = delete;
  ComputeSlot& operator=(const ComputeSlot&) = delete;

 private:
  std::counting_semaphore<>& slots_;
};

}  // namespace dsv3::convert
