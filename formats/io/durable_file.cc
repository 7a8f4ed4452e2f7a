#include "formats/io/durable_file.h"

#include <span>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::formats {

namespace {

std::filesystem::path PartialOf(std::filesystem::path path) {
  path += ".partial";
  return path;
}

}  // namespace

DurableFile::DurableFile(FileSystem& fs, std::filesystem::path path, std::uint64_t expected_bytes)
    : fs_(fs),
      path_(std::move(path)),
      partial_(PartialOf(path_)),
      file_(fs.Create(partial_, expected_bytes)) {}

DurableFile::~DurableFile() {
  if (named_) return;
  file_.reset();
  try {
    fs_.Remove(partial_);
  } catch (const Error&) {
    // The error that ended the writing says why.
  }
}

void DurableFile::Commit() {
  file_->Sync();
  // Some file systems cannot rename an open file.
  file_.reset();
  fs_.Rename(partial_, path_);
  named_ = true;
  fs_.SyncDirectory(path_.has_parent_path() ? path_.parent_path() : ".");
}

void WriteFileDurably(FileSystem& fs, const std::filesystem::path& path, std::string_view content) {
  DurableFile file(fs, path, 0);
  file.file().WriteAt(0, std::as_bytes(std::span(content)));
  file.Commit();
}

void RequireWritable(FileSystem& fs, const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: it is a directory, and a file is to be written there; name a file",
                            ShownPath(path)),
                {path.string(), ""});
  }
  const std::filesystem::path partial = PartialOf(path);
  fs.Create(partial, 0);
  fs.Remove(partial);
}

}  // namespace dsv3::formats
