#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/error.h"

namespace dsv3::convert {

// Receives the progress of a running job. Several threads call it at once, and each call must
// return quickly; implementations synchronise themselves.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;

  // A phase begins, such as "checking scales", "converting", "checking finished files";
  // `total_bytes` are the bytes that OnBytes will count in it.
  virtual void OnPhase(std::string_view phase, std::uint64_t total_bytes) {
    (void)phase;
    (void)total_bytes;
  }
  // `bytes` more are done; `file` is the file that they were written to (or read from, when the job
  // only reads).
  virtual void OnBytes(std::uint64_t bytes, std::string_view file) {
    (void)bytes;
    (void)file;
  }
  // A warning that the user should see now, one complete sentence.
  virtual void OnWarning(const std::string& message) { (void)message; }
};

// Set from a signal handler or another thread to end a job soon: no new write starts.
class StopToken {
 public:
  void RequestStop() noexcept { stop_.store(true, std::memory_order_relaxed); }
  bool stopped() const noexcept { return stop_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> stop_{false};
};

// Throws the Error (kInterrupted) that ends a job whose stop was requested.
[[noreturn]] inline void ThrowInterrupted() {
  throw Error(ErrorCode::kInterrupted, "interrupted; run the same command again to continue");
}

}  // namespace dsv3::convert
