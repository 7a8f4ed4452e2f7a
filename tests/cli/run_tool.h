#pragma once

#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

// Runs the built tools as a user does.
namespace dsv3::testing {

struct ToolResult {
  int exit_code = -1;  // 128 + number when a signal ended it
  std::string out;
  std::string err;
};

struct ToolSetting {
  // Set in the environment, on top of PATH, TMPDIR and TERM=xterm; colour variables are not passed
  // on.
  std::map<std::string, std::string> environment;
  std::string directory;  // to run in; empty for the current one
  // Sends stdout there instead of catching it; "closed" closes it, "nobody" is a
  // pipe whose reader is gone.
  std::string stdout_to;
};

// `words` is the name of a tool ("dsv3-convert"), or a path, and its arguments. stdin is empty.
ToolResult RunTool(const std::vector<std::string>& words, const ToolSetting& setting = {});

// A tool on a terminal of its own, 100 columns wide, where stdin, stdout and stderr are.
class TerminalRun {
 public:
  explicit TerminalRun(const std::vector<std::string>& words, const ToolSetting& setting = {});
  ~TerminalRun();
  TerminalRun(const TerminalRun&) = delete;
  TerminalRun& operator=(const TerminalRun&) = delete;

  // Reads until the screen's characters contain `text` (true) or the tool is gone (false).
  bool WaitFor(const std::string& text);
  void Type(const std::string& text);
  void Signal(int signal);
  // Reads to the end; the exit code as in ToolResult.
  int Wait();
  const std::string& screen() const { return screen_; }  // all characters so far

 private:
  bool ReadMore();

  int terminal_ = -1;
  pid_t child_ = -1;
  std::string screen_;
};

}  // namespace dsv3::testing
