#pragma once

#include <cstddef>
#include <vector>

namespace dsv3::convert {

// A fixed number of objects, such as buffers, that bound a job's memory: a worker takes a free one,
// and the worker that is done with it frees it. Not thread-safe; the job's lock guards it. The
// objects keep their addresses.
template <class T>
class Slots {
 public:
  explicit Slots(std::size_t count) : slots_(count) {
    for (T& slot : slots_) free_.push_back(&slot);
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;

  bool any_free() const { return !free_.empty(); }
  // The slot that was freed last, whose memory is the warmest. Needs any_free().
  T& Take() {
    T& slot = *free_.back();
    free_.pop_back();
    return slot;
  }
  void Free(T& slot) { free_.push_back(&slot); }

 private:
  std::vector<T> slots_;
  std::vector<T*> free_;
};

}  // namespace dsv3::convert
