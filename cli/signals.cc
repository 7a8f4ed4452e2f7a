#include "cli/signals.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace dsv3::cli {

namespace {

bool IsIgnored(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

SignalWatcher::SignalWatcher(std::chrono::milliseconds grace, std::function<void()> on_first,
                             std::function<void()> on_expiry)
    : grace_(grace), on_first_(std::move(on_first)), on_expiry_(std::move(on_expiry)) {
  sigemptyset(&signals_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (!IsIgnored(signal)) sigaddset(&signals_, signal);
  }
  signal_fd_ = ::signalfd(-1, &signals_, SFD_CLOEXEC);
  end_fd_ = ::eventfd(0, EFD_CLOEXEC);
  // Without descriptors the signals keep their default effect, which is safe as well.
  if (signal_fd_ < 0 || end_fd_ < 0) return;
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { Watch(); });
}

SignalWatcher::~SignalWatcher() {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    while (::write(end_fd_, &one, sizeof one) < 0 && errno == EINTR) {
    }
    thread_.join();
  }
  if (signal_fd_ >= 0) ::close(signal_fd_);
  if (end_fd_ >= 0) ::close(end_fd_);
}

void SignalWatcher::Watch() {
  using Clock = std::chrono::steady_clock;
  Clock::time_point deadline = Clock::time_point::max();
  while (true) {
    int timeout_ms = -1;
    if (deadline != Clock::time_point::max()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
      if (left.count() <= 0) return on_expiry_();
      timeout_ms = static_cast<int>(left.count());
    }
    std::array<pollfd, 2> waited = {{{signal_fd_, POLLIN, 0}, {end_fd_, POLLIN, 0}}};
    if (::poll(waited.data(), waited.size(), timeout_ms) <= 0) continue;
    if (waited[1].revents != 0) return;
    if (waited[0].revents == 0) continue;
    signalfd_siginfo info{};
    if (::read(signal_fd_, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) continue;
    if (deadline != Clock::time_point::max()) return on_expiry_();
    deadline = Clock::now() + grace_;
    on_first_();
  }
}

}  // namespace dsv3::cli
