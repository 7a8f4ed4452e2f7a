#include "formats/io/durable_file.h"

#include <memory>
#include <span>

#include "formats/error.h"

namespace dsv3::formats {

void WriteFileDurably(FileSystem& fs, const std::filesystem::path& path, std::string_view content) {
  std::filesystem::path partial = path;
  partial += ".partial";
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const std::unique_ptr<OutputFile> file = fs.Create(partial, 0);
  try {
    file->WriteAt(0, std::as_bytes(std::span(content)));
    file->Sync();
    fs.Rename(partial, path);
  } catch (const Error&) {
    try {
      fs.Remove(partial);
    } catch (const Error&) {
      // The first error tells why.
    }
    throw;
  }
  fs.SyncDirectory(parent);
}

}  // namespace dsv3::formats
