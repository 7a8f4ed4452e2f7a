#include "cli/confirm_deletion.h"

#include <cerrno>
#include <string>
#include <vector>

#include <unistd.h>

#include "cli/console.h"
#include "cli/deletion_text.h"
#include "convert/job/source_deletion.h"
#include "formats/checkpoint_files.h"
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

void ConfirmDeletion(const std::filesystem::path& input) {
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) {
    throw Error(ErrorCode::kUsage,
                "--delete-source-shards deletes the source while it converts, and there is no "
                "terminal to ask on; add --yes if that is what you want");
  }
  const formats::CheckpointFiles files = formats::OpenCheckpointFiles(input);
  std::vector<std::filesystem::path> shards;
  for (const formats::ShardFile& shard : files.shards) shards.push_back(shard.path);
  const std::vector<convert::SourceDeletion> deletions =
      convert::PlanDeletion(files.directory, shards);
  if (deletions.empty()) return;  // an earlier run deleted all of them
  std::string question =
      "--delete-source-shards deletes " + DeletionTotal(deletions) + " of the source:\n";
  for (const std::string& line : DeletionLines(deletions)) question += "  " + line + "\n";
  WriteStderr(question +
              "Each is deleted once all output that needs it is written and verified. There is no "
              "way back\nto the source without another copy of it.\n");
  Ask("Delete them? Type yes to go on: ", "yes");
  Ask("Are you sure? Type delete to go on: ", "delete");
}

}  // namespace dsv3::cli
