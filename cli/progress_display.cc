#include "cli/progress_display.h"

#include <algorithm>
#include <utility>

#include "cli/console.h"

namespace dsv3::cli {

namespace {

constexpr const char* kClearLine = "\r\x1b[K";
constexpr std::chrono::seconds kFirstLineAfter{10};
constexpr std::chrono::seconds kLongestInterval{300};

}  // namespace

ProgressDisplay::ProgressDisplay(std::string tool, Style style, bool color)
    : tool_(std::move(tool)), style_(style), color_(color) {
  thread_ = std::thread([this] { Run(); });
}

ProgressDisplay::~ProgressDisplay() { Close(); }

void ProgressDisplay::OnPhase(std::string_view phase, std::uint64_t total_bytes) {
  const std::scoped_lock lock(mutex_);
  state_ = {};
  state_.phase = phase;
  state_.total_bytes = total_bytes;
  rate_ = {};
  rated_bytes_ = 0;
  rated_at_ = Clock::now();
  line_interval_ = kFirstLineAfter;
  next_line_ = rated_at_ + line_interval_;
  // Queued here and not left to the next tick, so that even the shortest phase is printed.
  if (style_ == Style::kLines) pending_.push_back({tool_ + ": " + state_.phase + "\n"});
  if (style_ == Style::kBar) pending_.push_back({ProgressBar(state_, StderrColumns()), true});
  wake_.notify_one();
}

void ProgressDisplay::OnBytes(std::uint64_t bytes, std::string_view file) {
  const std::scoped_lock lock(mutex_);
  state_.done_bytes += bytes;
  if (state_.file != file) state_.file = file;
}

void ProgressDisplay::OnWarning(const std::string& message) {
  const std::string line = WarningLine(tool_, message, color_);
  const std::scoped_lock lock(mutex_);
  if (closed_) {
    WriteStderr(line);
    return;
  }
  pending_.push_back({line});
  wake_.notify_one();
}

void ProgressDisplay::Close() {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

std::chrono::milliseconds ProgressDisplay::Tick() const {
  switch (style_) {
    case Style::kBar:
      return std::chrono::milliseconds(100);
    case Style::kLines:
      return std::chrono::seconds(1);
    case Style::kNone:
      break;
  }
  return std::chrono::hours(1);
}

void ProgressDisplay::QueueProgress() {
  if (style_ == Style::kNone || state_.phase.empty()) return;
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - rated_at_).count();
  // Short stretches would make the rate jump.
  if (seconds > 0.05) {
    rate_.Add(seconds, state_.done_bytes - rated_bytes_);
    rated_at_ = now;
    rated_bytes_ = state_.done_bytes;
    state_.bytes_per_second = rate_.bytes_per_second();
  }
  if (style_ == Style::kBar) {
    pending_.push_back({ProgressBar(state_, StderrColumns()), true});
  } else if (now >= next_line_) {
    pending_.push_back({tool_ + ": " + ProgressLine(state_) + "\n"});
    line_interval_ = std::min(line_interval_ * 2, kLongestInterval);
    next_line_ = now + line_interval_;
  }
}

std::string ProgressDisplay::TakePending() {
  std::string out;
  for (const Pending& each : pending_) {
    if (bar_on_screen_) out += kClearLine;
    out += each.text;
    bar_on_screen_ = each.is_bar;
  }
  // A warning took the bar's line: draw the bar anew below it.
  if (!bar_on_screen_ && style_ == Style::kBar && !closing_ && !state_.phase.empty()) {
    out += ProgressBar(state_, StderrColumns());
    bar_on_screen_ = true;
  }
  pending_.clear();
  return out;
}

void ProgressDisplay::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    const bool woken =
        wake_.wait_for(lock, Tick(), [this] { return closing_ || !pending_.empty(); });
    if (!woken) QueueProgress();
    const bool last = closing_;
    std::string out = TakePending();
    if (last) {
      if (bar_on_screen_) out += kClearLine;
      bar_on_screen_ = false;
      closed_ = true;
    }
    lock.unlock();
    WriteStderr(out);
    if (last) return;
    lock.lock();
  }
}

}  // namespace dsv3::cli
