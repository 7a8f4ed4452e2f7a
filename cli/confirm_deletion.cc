#include "cli/confirm_deletion.h"

#include <cerrno>
#include <string>
#include <vector>

#include <unistd.h>

#include "cli/console.h"
#include "cli/deletion_text.h"
#include "formats/error.h"

namespace dsv3::cli {

namespace {

// A line of stdin without its end; at the end of stdin, the characters that are left. Read byte by
// byte, because the bytes after the line are not ours.
std::string ReadLine() {
  std::string line;
  char c = 0;
  while (line.size() < 1024) {
    const ssize_t got = ::read(STDIN_FILENO, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || c == '\n') break;
    line += c;
  }
  return line;
}

void Ask(const std::string& question, const std::string& wanted) {
  WriteStderr(question);
  if (ReadLine() == wanted) return;
  throw Error(ErrorCode::kInterrupted, "not confirmed, so nothing was read, written or deleted");
}

}  // namespace

void RequireSomebodyToAsk() {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) {
    throw Error(ErrorCode::kUsage,
                "--delete-source-shards deletes the source while it converts, and there is no "
                "terminal to ask on; add --yes if that is what you want");
  }
}

void ConfirmDeletion(const std::vector<convert::SourceDeletion>& deletions,
                     const std::string& beside) {
  std::string question =
      "--delete-source-shards deletes " + DeletionTotal(deletions) + " of the source:\n";
  for (const std::string& line : DeletionLines(deletions)) question += "  " + line + "\n";
  if (!beside.empty()) question += beside + ".\n";
  WriteStderr(question +
              "Each is deleted once all output that needs it is written and verified. There is no "
              "way back\nto the source without another copy of it.\n");
  Ask("Delete them? Type yes to go on: ", "yes");
  Ask("Are you sure? Type delete to go on: ", "delete");
}

}  // namespace dsv3::cli
