#pragma once

#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

namespace dsv3::cli {

// Turns SIGINT, SIGTERM and SIGHUP into calls on a thread of its own. Signals that were ignored
// when the process began stay ignored (nohup, background jobs).
//
// The first signal calls `on_first`; if the process still lives `grace` later, or a second signal
// comes, `on_expiry` is called, which must end the process. That is safe at any moment, because
// the journal makes every moment one to continue from.
class SignalWatcher {
 public:
  // Construct before any other thread begins: threads inherit the blocked signals. They stay
  // blocked for good, so that none ends the process halfway through its last words.
  SignalWatcher(std::chrono::milliseconds grace, std::function<void()> on_first,
                std::function<void()> on_expiry);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Watch();

  std::chrono::milliseconds grace_;
  std::function<void()> on_first_;
  std::function<void()> on_expiry_;
  sigset_t signals_{};
  int signal_fd_ = -1;
  int end_fd_ = -1;
  std::thread thread_;
};

}  // namespace dsv3::cli
