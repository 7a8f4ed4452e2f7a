#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "convert/catalog/progress.h"

namespace dsv3::testing {

// Remembers the last phase, and adds up the bytes of all phases.
class CountingSink final : public convert::ProgressSink {
 public:
  void OnPhase(std::string_view phase, std::uint64_t total_bytes) override {
    phase_ = phase;
    total_bytes_ = total_bytes;
  }
  void OnBytes(std::uint64_t bytes, std::string_view) override { bytes_ += bytes; }

  const std::string& phase() const { return phase_; }
  std::uint64_t total_bytes() const { return total_bytes_; }  // of the last phase
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::string phase_;
  std::uint64_t total_bytes_ = 0;
  std::atomic<std::uint64_t> bytes_{0};
};

}  // namespace dsv3::testing
