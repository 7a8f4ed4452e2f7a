#include "cli/console.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/units.h"
#include "formats/error.h"

namespace dsv3::cli {

namespace {

constexpr const char* kRed = "\x1b[1;31m";
constexpr const char* kYellow = "\x1b[1;33m";
constexpr const char* kGreen = "\x1b[1;32m";
constexpr const char* kReset = "\x1b[0m";

std::string_view Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : value;
}

bool DumbTerminal() {
  const std::string_view term = Environment("TERM");
  return term.empty() || term == "dumb";
}

bool Forced(const char* name) {
  const std::string_view value = Environment(name);
  return !value.empty() && value != "0";
}

// Returns 0 or the errno of the write that failed.
int WriteAll(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

unsigned ColumnsOf(int fd, unsigned otherwise) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 ? otherwise : size.ws_col;
}

}  // namespace

bool UseColor(ColorMode mode, int fd) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kAlways;
  if (!Environment("NO_COLOR").empty()) return false;
  if (Forced("FORCE_COLOR") || Forced("CLICOLOR_FORCE")) return true;
  return ::isatty(fd) == 1 && !DumbTerminal();
}

bool StderrCanRedraw() { return ::isatty(STDERR_FILENO) == 1 && !DumbTerminal(); }

unsigned StderrColumns() { return ColumnsOf(STDERR_FILENO, 80); }

unsigned StdoutColumns() { return ColumnsOf(STDOUT_FILENO, 0); }

std::string Colored(std::string_view word, Tone tone, bool color) {
  if (!color) return std::string(word);
  const char* const code = tone == Tone::kBad ? kRed : tone == Tone::kGood ? kGreen : kYellow;
  return code + std::string(word) + kReset;
}

void WriteStderr(std::string_view text) noexcept { (void)WriteAll(STDERR_FILENO, text); }

void WriteStdout(std::string_view text) {
  const int error = WriteAll(STDOUT_FILENO, text);
  if (error == 0) return;
  if (error == EPIPE) {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
  }
  throw Error(ErrorCode::kIo, std::string("cannot write to the standard output: ") +
                                  std::strerror(error) +
                                  "; send it to a file or a terminal that can take it");
}

std::string ErrorLine(std::string_view tool, std::string_view message, bool color) {
  return std::string(tool) + ": " + Colored("error:", Tone::kBad, color) + " " +
         Printable(message) + "\n";
}

std::string WarningLine(std::string_view tool, std::string_view message, bool color) {
  return std::string(tool) + ": " + Colored("warning:", Tone::kDoubtful, color) + " " +
         Printable(message) + "\n";
}

void ReserveStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number is taken, which is `fd`. Read-only, so that a report written to a
    // closed stdout fails instead of vanishing.
    const int flags = fd == STDERR_FILENO ? O_WRONLY : O_RDONLY;
    if (::open("/dev/null", flags) != fd) return;
  }
}

}  // namespace dsv3::cli
