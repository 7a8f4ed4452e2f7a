#include "cli/tool_main.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <poll.h>
#include <unistd.h>

#include "cli/caught_error.h"
#include "cli/completion.h"
#include "cli/error_json.h"
#include "cli/help.h"
#include "cli/job_command.h"
#include "cli/man_page.h"
#include "cli/place_arguments.h"
#include "cli/signals.h"
#include "cli/version.h"
#include "formats/error.h"

namespace dsv3::cli {

namespace {

// A user expects the prompt back within a second.
constexpr std::chrono::milliseconds kGrace{800};

std::vector<Option> OutputTable(OutputOptions* output) {
  std::vector<Option> options;
  options.push_back(Flag("json", &output->json,
                         "Print the report, or the error, as one JSON object on the standard "
                         "output. Progress and warnings stay on the standard error."));
  options.push_back(Flag("quiet", &output->quiet,
                         "Print neither progress nor a report for people, only warnings, errors "
                         "and, of a check, the verdict.",
                         'q'));
  options.push_back(Flag("no-progress", &output->no_progress, "Print no progress."));
  options.push_back(OneOf<ColorMode>("color", "WHEN",
                                     {{"auto", ColorMode::kAuto, "on a terminal"},
                                      {"always", ColorMode::kAlways, "always"},
                                      {"never", ColorMode::kNever, "never"}},
                                     &output->color,
                                     "Colour messages: auto (on a terminal, the default), always "
                                     "or never."));
  return options;
}

// Output options as far as they can be seen without the tables, for errors in the call itself.
OutputOptions PeekOutputOptions(const std::vector<std::string>& words) {
  OutputOptions output;
  for (std::size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (words[i] == "--json") output.json = true;
    std::string_view color = words[i];
    if (color == "--color" && i + 1 < words.size()) {
      color = words[++i];
    } else if (color.starts_with("--color=")) {
      color.remove_prefix(std::string_view("--color=").size());
    } else {
      continue;
    }
    if (color == "always") output.color = ColorMode::kAlways;
    if (color == "never") output.color = ColorMode::kNever;
  }
  return output;
}

// Runs one call of one tool; lives as long as the process may print.
class Call {
 public:
  Call(const std::function<Tool()>& make_tool, std::vector<std::string> words, JoinProcesses join)
      : words_(std::move(words)), tool_(make_tool()), join_(join) {
    for (Option& option : OutputTable(&output_)) tool_.shared_options.push_back(std::move(option));
    for (Option& option : InfoOptions(&info_)) tool_.shared_options.push_back(std::move(option));
  }

  int Run() {
    const int code = RunHere();
    return group_ ? group_->End() : code;
  }

 private:
  int RunHere() {
    try {
      if (join_ != nullptr) group_ = join_();
      return Work();
    } catch (const UsageError& error) {
      return Fail(error, error.hint());
    } catch (...) {
      return Fail(CaughtError(tool_.name), "");
    }
  }

  // "OUT" is a directory to write, "OUT.gguf" a file; all others are read.
  static PathUse UseOf(const Argument& argument) {
    if (argument.name == kOutputName) return PathUse::kOutputDirectory;
    return argument.name.starts_with(kOutputName) ? PathUse::kOutputFile : PathUse::kCheckpoint;
  }

  // Returns the exit code.
  int Work() {
    const ParsedCall call = ParseCall(tool_, words_, info_);
    const std::string text = Information(call.command);
    if (text.empty()) {
      for (const Argument& argument : call.command->arguments) {
        if (argument.optional && argument.target->empty()) continue;
        *argument.target = PlacedPath(UseOf(argument), argument.name, *argument.target);
      }
      return RunCommand(call);
    }
    if (Leads()) WriteStdout(text);
    return 0;
  }

  // The text that was asked for instead of a job; empty when `command` is to run.
  std::string Information(const Command* command) const {
    if (info_.help) return HelpText(tool_, command);
    if (info_.version) return VersionText(tool_.name);
    if (info_.man) return ManPage(tool_);
    if (!info_.completion.empty()) return CompletionScript(tool_, info_.completion);
    if (command == nullptr) {
      const std::string help = HelpText(tool_, nullptr);
      throw UsageError("no command given", help.substr(0, help.size() - 1));
    }
    return "";
  }

  // Whether this process prints for all that run together.
  bool Leads() const { return !group_ || group_->process() == 0; }

  int RunCommand(const ParsedCall& call) {
    const Command& command = *call.command;
    if (!Leads() && !command.shares_work) return 0;
    const std::chrono::milliseconds grace = command.stops_by_itself ? kGrace : kGrace * 0;
    // Before any other thread begins, so that all of them have these signals blocked.
    const SignalWatcher watcher(
        grace, [&] { OnSignal(command); }, [&] { OnExpiry(command); });
    ProgressDisplay::Style style = ProgressDisplay::Style::kNone;
    if (Leads() && !output_.quiet && !output_.no_progress) {
      style = StderrCanRedraw() ? ProgressDisplay::Style::kBar : ProgressDisplay::Style::kLines;
    }
    ProgressDisplay progress(tool_.name, style, UseColor(output_.color, STDERR_FILENO));
    CommandContext context{tool_,       command, output_, progress, stop_, JobCommand(tool_, call),
                           group_.get()};
    if (group_) group_->SetOnStop([this] { stop_.RequestStop(); });
    std::string report = command.run(context);
    progress.Close();
    if (output_.quiet && !output_.json && !command.returns_data) report.clear();
    // Still under the watcher's eyes: a reader that does not read must not make Ctrl-C useless.
    said_last_words_ = true;
    if (Leads()) WriteStdout(report);
    if (context.failed_part) return static_cast<int>(*context.failed_part);
    return context.found_differences ? static_cast<int>(ErrorCode::kVerification) : 0;
  }

  std::string StopMessage(const Command& command) const {
    return "stopping; " + command.after_stop;
  }

  void OnSignal(const Command& command) {
    stop_.RequestStop();
    if (!Leads()) return;
    // A terminal that takes nothing (Ctrl-S, a dead connection) must not hold this thread.
    pollfd stderr_ready{STDERR_FILENO, POLLOUT, 0};
    if (::poll(&stderr_ready, 1, 0) != 1) return;
    WriteStderr((StderrCanRedraw() ? "\r\x1b[K" : "") + tool_.name + ": " + StopMessage(command) +
                "\n");
  }

  [[noreturn]] void OnExpiry(const Command& command) {
    if (Leads() && output_.json && !said_last_words_.exchange(true)) {
      pollfd stdout_ready{STDOUT_FILENO, POLLOUT, 0};
      const std::string text = ErrorJson(Error(ErrorCode::kInterrupted, StopMessage(command)));
      try {
        if (::poll(&stdout_ready, 1, 0) == 1) WriteStdout(text);
      } catch (const Error&) {
        // The process ends here in any case.
      }
    }
    // No destructors: they would wait for the very writes that did not end in time.
    std::_Exit(static_cast<int>(ErrorCode::kInterrupted));
  }

  int Fail(const Error& error, const std::string& hint) {
    if (group_ && !group_->Fail(static_cast<int>(error.code()))) {
      return static_cast<int>(error.code());
    }
    // The call itself may be what is wrong, and then the tables were not filled.
    const OutputOptions output = PeekOutputOptions(words_);
    const bool color = UseColor(output.color, STDERR_FILENO);
    std::string text = ErrorLine(tool_.name, error.message(), color);
    if (!hint.empty()) text += hint + "\n";
    WriteStderr(text);
    if (output.json && !said_last_words_.exchange(true)) {
      try {
        WriteStdout(ErrorJson(error));
      } catch (const Error&) {
        // The exit code of the first error says more.
      }
    }
    return static_cast<int>(error.code());
  }

  const std::vector<std::string> words_;
  OutputOptions output_;
  InfoRequest info_;
  Tool tool_;
  JoinProcesses join_;
  convert::StopToken stop_;
  std::unique_ptr<convert::ProcessGroup> group_;
  std::atomic<bool> said_last_words_{false};
};

// The C library takes large blocks from the kernel one by one at first, and from a heap once it has
// seen some freed. Buffers of a run have many lengths, and between them the heap would keep as much
// memory again as they take.
void KeepLargeBlocksOutOfTheHeap() {
#if defined(__GLIBC__)
  constexpr int kLargeBytes = 4 << 20;
  ::mallopt(M_MMAP_THRESHOLD, kLargeBytes);
#endif
}

}  // namespace

int ToolMain(const std::function<Tool()>& make_tool, int argc, char** argv, JoinProcesses join) {
  ReportBugsThatTerminate();
  KeepLargeBlocksOutOfTheHeap();
  ReserveStandardDescriptors();
  // A reader of stderr that goes away must not end a job of hours; see WriteStdout for stdout.
  std::signal(SIGPIPE, SIG_IGN);
  // A file that grows beyond `ulimit -f` is an error of writing, which is reported.
  std::signal(SIGXFSZ, SIG_IGN);
  std::vector<std::string> words;
  if (argc > 1) words.assign(argv + 1, argv + argc);
  return Call(make_tool, std::move(words), join).Run();
}

}  // namespace dsv3::cli
