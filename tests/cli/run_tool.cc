#include "tests/cli/run_tool.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <stdexcept>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dsv3::testing {

namespace {

// Everything that exec needs, made before the fork.
class Program {
 public:
  Program(const std::vector<std::string>& words, const ToolSetting& setting) : words_(words) {
    if (words_[0].find('/') == std::string::npos) words_[0] = DSV3_BIN_DIR "/" + words_[0];
    std::map<std::string, std::string> variables = {{"TERM", "xterm"}};
    for (const char* name : {"PATH", "TMPDIR", "ASAN_OPTIONS", "UBSAN_OPTIONS"}) {
      if (const char* value = std::getenv(name)) variables[name] = value;
    }
    for (const auto& [name, value] : setting.environment) variables[name] = value;
    for (const auto& [name, value] : variables) environment_.push_back(name + "=" + value);
    for (std::string& word : words_) argv_.push_back(word.data());
    argv_.push_back(nullptr);
    for (std::string& variable : environment_) envp_.push_back(variable.data());
    envp_.push_back(nullptr);
  }

  [[noreturn]] void Execute() {
    ::execvpe(argv_[0], argv_.data(), envp_.data());
    std::_Exit(127);
  }

 private:
  std::vector<std::string> words_;
  std::vector<std::string> environment_;
  std::vector<char*> argv_;
  std::vector<char*> envp_;
};

int ExitCode(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void Require(bool good, const char* what) {
  if (!good) throw std::runtime_error(what);
}

void EnterDirectory(const ToolSetting& setting) {
  if (!setting.directory.empty() && ::chdir(setting.directory.c_str()) != 0) std::_Exit(126);
}

}  // namespace

ToolResult RunTool(const std::vector<std::string>& words, const ToolSetting& setting) {
  Program program(words, setting);
  std::array<int, 2> out{};
  std::array<int, 2> err{};
  Require(::pipe2(out.data(), O_CLOEXEC) == 0 && ::pipe2(err.data(), O_CLOEXEC) == 0, "pipe");
  const pid_t child = ::fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    EnterDirectory(setting);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    if (setting.stdout_to == "closed") {
      ::close(STDOUT_FILENO);
    } else if (setting.stdout_to == "nobody") {
      std::array<int, 2> ends{};
      if (::pipe(ends.data()) != 0) std::_Exit(126);
      ::dup2(ends[1], STDOUT_FILENO);
      ::close(ends[0]);
      ::close(ends[1]);
    } else if (!setting.stdout_to.empty()) {
      ::dup2(::open(setting.stdout_to.c_str(), O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
    }
    program.Execute();
  }
  ::close(out[1]);
  ::close(err[1]);
  ToolResult result;
  std::array<pollfd, 2> ends = {{{out[0], POLLIN, 0}, {err[0], POLLIN, 0}}};
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    ::poll(ends.data(), ends.size(), -1);
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      std::array<char, 65536> buffer;
      const ssize_t got = ::read(ends[i].fd, buffer.data(), buffer.size());
      if (got > 0) {
        (i == 0 ? result.out : result.err).append(buffer.data(), static_cast<std::size_t>(got));
      } else {
        ::close(ends[i].fd);
        ends[i].fd = -1;
      }
    }
  }
  result.exit_code = ExitCode(child);
  return result;
}

TerminalRun::TerminalRun(const std::vector<std::string>& words, const ToolSetting& setting) {
  Program program(words, setting);
  winsize size{};
  size.ws_col = 100;
  size.ws_row = 24;
  child_ = ::forkpty(&terminal_, nullptr, nullptr, &size);
  Require(child_ >= 0, "forkpty");
  if (child_ == 0) {
    EnterDirectory(setting);
    program.Execute();
  }
}

TerminalRun::~TerminalRun() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ExitCode(child_);
  }
  ::close(terminal_);
}

bool TerminalRun::ReadMore() {
  std::array<char, 4096> buffer;
  const ssize_t got = ::read(terminal_, buffer.data(), buffer.size());
  if (got <= 0) return false;  // Linux reports the end of a terminal as EIO
  screen_.append(buffer.data(), static_cast<std::size_t>(got));
  return true;
}

bool TerminalRun::WaitFor(const std::string& text) {
  while (screen_.find(text) == std::string::npos) {
    if (!ReadMore()) return false;
  }
  return true;
}

void TerminalRun::Type(const std::string& text) {
  Require(::write(terminal_, text.data(), text.size()) == static_cast<ssize_t>(text.size()),
          "write to the terminal");
}

void TerminalRun::Signal(int signal) { ::kill(child_, signal); }

int TerminalRun::Wait() {
  while (ReadMore()) {
  }
  const int code = ExitCode(child_);
  child_ = -1;
  return code;
}

}  // namespace dsv3::testing
