#include "cli/confirm_deletion.h"

#include <cerrno>
#include <cstdint>
#include <string>

#include <unistd.h>

#include "cli/console.h"
#include "cli/units.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"

namespace dsv3::cli {

namespace {

// A line of stdin without its end; what there is at its end. Read byte by byte, because what
// follows the line is not ours.
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
  std::uint64_t bytes = 0;
  std::uint64_t present = 0;  // an earlier run may have deleted some
  for (const formats::ShardFile& shard : files.shards) {
    bytes += shard.bytes;
    if (shard.bytes > 0) ++present;
  }
  if (present == 0) return;
  WriteStderr("--delete-source-shards deletes " + FormatCountOf(present, "file") + " (" +
              FormatBytes(bytes) + ") in\n  " + Printable(files.directory.string()) +
              "\nEach goes once all that needs it is written and verified. There is no way "
              "back\nto the FP8 weights without another copy of them.\n");
  Ask("Delete them? Type yes to go on: ", "yes");
  Ask("Are you sure? Type delete to go on: ", "delete");
}

}  // namespace dsv3::cli
