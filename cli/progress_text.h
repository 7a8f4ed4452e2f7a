#pragma once

#include <cstdint>
#include <optional>
#include <string>

// The texts of a progress display; progress_display.h decides when and where they are shown.
namespace dsv3::cli {

// Bytes a second, with the last few seconds counting most.
class RateMeter {
 public:
  // `seconds` passed since the last call, in which `bytes` were done.
  void Add(double seconds, std::uint64_t bytes);
  // 0 before anything was added.
  double bytes_per_second() const;

 private:
  double weighted_rate_ = 0;
  double weight_ = 0;
};

struct ProgressState {
  std::string phase;  // "converting"
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;  // 0: unknown
  double bytes_per_second = 0;    // 0: unknown
  std::string file;               // being written; may be empty
};

// Seconds left; nothing when rate or total are unknown.
std::optional<double> SecondsLeft(const ProgressState& state);

// One line without end, at most `columns` - 1 characters long (a full last column makes some
// terminals wrap). What does not fit is left out: the file's name first, then the bar, which
// shrinks before, then rate, bytes, time left and percentage.
std::string ProgressBar(const ProgressState& state, unsigned columns);

// One plain line without end, for logs.
std::string ProgressLine(const ProgressState& state);

}  // namespace dsv3::cli
