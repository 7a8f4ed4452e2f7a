#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <tuple>
#include <vector>

#include "formats/io/aligned_buffer.h"

// An internal part of forward.h.
namespace dsv3::convert {

// Rows [first, end) of a tensor whose rows have `cols` columns.
struct TensorRows {
  using Key = std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>;

  std::uint32_t tensor = 0;
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  std::uint64_t cols = 0;

  // The same for the same rows.
  Key key() const { return {tensor, first, end}; }
};

// The bytes of such rows, then those of their scales where there are some.
struct RowBytes {
  formats::AlignedBuffer buffer;
  std::vector<std::span<const std::byte>> inputs;
};

// Reads rows before they are needed, on threads of its own that wait for the disk. All functions
// may be called by several threads at once.
class ReadAhead {
 public:
  // `read` is called by several threads at once. So many rows lie in memory at most.
  using Read = std::function<void(const TensorRows&, RowBytes&)>;
  ReadAhead(Read read, std::size_t slots);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Rows that will be taken, in that order. Rows that were asked for before are left out.
  void Ask(std::span<const TensorRows> rows);
  bool IsAsked(const TensorRows& rows);
  // Whether the rows were being read: waits for their bytes, and throws what reading them threw.
  // Otherwise the caller is to read them.
  bool Take(const TensorRows& rows, RowBytes& bytes);

 private:
  struct Entry {
    enum class State { kWaiting, kReading, kDone, kLeft };

    TensorRows rows;
    State state = State::kWaiting;
    RowBytes bytes;
    std::exception_ptr error = nullptr;
  };

  void Work();

  const Read read_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<TensorRows::Key, std::shared_ptr<Entry>> entries_;
  std::deque<std::shared_ptr<Entry>> waiting_;
  std::vector<formats::AlignedBuffer> free_;  // one for each slot that nothing is in
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace dsv3::convert
