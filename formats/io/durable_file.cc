#include "formats/io/durable_file.h"

#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/removal.h"
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
  namespace stdfs = std::filesystem;
  std::error_code error;
  const stdfs::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const stdfs::file_status place = stdfs::status(parent, error);
  if (place.type() == stdfs::file_type::not_found) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("there is no directory {}; make it, or give another FILE", ShownPath(parent)),
        {path.string(), ""});
  }
  if (stdfs::exists(place) && !stdfs::is_directory(place)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: it is no directory, and a file is to be written into it; name "
                            "another place",
                            ShownPath(parent)),
                {path.string(), ""});
  }
  const stdfs::file_status status = stdfs::status(path, error);
  if (stdfs::exists(status) && !stdfs::is_regular_file(status)) {
    // A rename would put a file in the place of a device.
    throw Error(
        ErrorCode::kUsage,
        fmt::format("{}: it is {}, and a file is to be written there; name a file", ShownPath(path),
                    stdfs::is_directory(status) ? "a directory" : "a device or a pipe"),
        {path.string(), ""});
  }
  const std::filesystem::path partial = PartialOf(path);
  // A file of no bytes can be made on a full disk.
  constexpr std::uint64_t kLeastBlock = 512;
  fs.Create(partial, kLeastBlock);
  fs.Remove(partial);
  if (EntryExists(path)) {
    const std::string obstacle = ObstacleToRemoval(path);
    if (!obstacle.empty()) {
      throw Error(ErrorCode::kIo,
                  fmt::format("cannot replace {}: {}; get the permission, or name another file",
                              ShownPath(path), obstacle),
                  {path.string(), ""});
    }
  }
}

std::filesystem::path FollowLinks(std::filesystem::path path) {
  const std::filesystem::path named = path;
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(path, error); ++links) {
    if (links == kMostLinks) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("{}: its links form a loop; name a file", ShownPath(named)),
                  {named.string(), ""});
    }
    path = path.parent_path() / std::filesystem::read_symlink(path);
  }
  return path;
}

std::filesystem::path WritablePlace(FileSystem& fs, const std::filesystem::path& path) {
  std::filesystem::path place = FollowLinks(path);
  RequireWritable(fs, place);
  return place;
}

}  // namespace dsv3::formats
