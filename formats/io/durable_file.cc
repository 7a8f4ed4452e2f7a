#include "formats/io/durable_file.h"

#include <memory>
#include <span>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::formats {

void WriteFileDurably(FileSystem& fs, const std::filesystem::path& path, std::string_view content) {
  std::filesystem::path partial = path;
  partial += ".partial";
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  std::unique_ptr<OutputFile> file = fs.Create(partial, 0);
  try {
    file->WriteAt(0, std::as_bytes(std::span(content)));
    file->Sync();
    // Some file systems cannot rename an open file.
    file.reset();
    fs.Rename(partial, path);
  } catch (const Error&) {
    try {
      fs.Remove(partial);
    } catch (const Error&) {
      // The first error says why.
    }
    throw;
  }
  fs.SyncDirectory(parent);
}

void RequireWritable(FileSystem& fs, const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: it is a directory, and a file is to be written there; name a file",
                            ShownPath(path)),
                {path.string(), ""});
  }
  std::filesystem::path partial = path;
  partial += ".partial";
  fs.Create(partial, 0);
  fs.Remove(partial);
}

}  // namespace dsv3::formats
