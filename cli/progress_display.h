#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "cli/progress_text.h"
#include "convert/catalog/progress.h"

namespace dsv3::cli {

// Shows the progress of a job on stderr: one bar that is drawn over and over on a terminal, with
// warnings scrolling above it; a plain line now and then elsewhere. A thread of its own does the
// drawing, so that a terminal that takes no characters for a while holds up nothing else.
class ProgressDisplay : public convert::ProgressSink {
 public:
  enum class Style {
    kBar,    // a terminal
    kLines,  // at each phase, after 10 s, then after twice the time before, 5 min at most
    kNone,   // warnings only
  };

  ProgressDisplay(std::string tool, Style style, bool color);
  // Prints the warnings that are left and clears the bar.
  ~ProgressDisplay() override;

  void OnPhase(std::string_view phase, std::uint64_t total_bytes) override;
  void OnBytes(std::uint64_t bytes, std::string_view file) override;
  void OnWarning(const std::string& message) override;

  // Prints what is left, clears the bar for good, and returns when that is done; so that the caller
  // may write to the terminal. Later warnings are printed at once, progress no more.
  void Close();

 private:
  using Clock = std::chrono::steady_clock;

  // Something to print in its turn: a whole line, or a drawing of the bar.
  struct Pending {
    std::string text;
    bool is_bar = false;
  };

  void Run();
  std::chrono::milliseconds Tick() const;
  // Takes note of the rate and queues a bar or a line when it is time for one.
  void QueueProgress();
  // The characters that print all pending things, and leave the bar on the screen or not.
  std::string TakePending();

  const std::string tool_;
  const Style style_;
  const bool color_;

  std::mutex mutex_;  // guards all below but the thread
  std::condition_variable wake_;
  ProgressState state_;
  RateMeter rate_;
  std::uint64_t rated_bytes_ = 0;
  Clock::time_point rated_at_;
  Clock::time_point next_line_;
  std::chrono::seconds line_interval_{0};
  std::vector<Pending> pending_;
  bool bar_on_screen_ = false;
  bool closing_ = false;
  bool closed_ = false;

  std::thread thread_;
};

}  // namespace dsv3::cli
