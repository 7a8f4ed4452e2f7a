#include "formats/io/posix_scratch_file.h"

#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

#include "formats/error.h"

namespace dsv3::formats {
namespace {

constexpr char kAction[] = "keep what does not fit in memory in";

// A file that has a name for a moment, where the file system knows none without.
int CreateAndUnlink(const std::string& directory) {
  std::string path = directory + "/.dsv3-scratch-XXXXXX";
  const int fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd >= 0) ::unlink(path.c_str());
  return fd;
}

int OpenWithoutName(const std::string& directory) {
  const int fd = RetryInterrupted(
      [&] { return ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); });
  // Kernels and file systems without O_TMPFILE take the directory for what is to be opened.
  const bool lacks_it = fd < 0 && (MeansUnsupported(errno) || errno == EISDIR);
  return lacks_it ? CreateAndUnlink(directory) : fd;
}

}  // namespace

PosixScratchFile::PosixScratchFile(const std::filesystem::path& directory)
    : directory_(directory.string()), fd_(OpenWithoutName(directory_)) {
  if (fd_.get() < 0) throw IoError(kAction, directory_, errno);
}

void PosixScratchFile::Append(std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t count = RetryInterrupted(
        [&] { return ::pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(bytes_)); });
    if (count <= 0) throw IoError(kAction, directory_, count < 0 ? errno : EIO);
    bytes_ += static_cast<std::uint64_t>(count);
    data = data.subspan(static_cast<std::size_t>(count));
  }
}

void PosixScratchFile::ReadAt(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t count = RetryInterrupted(
        [&] { return ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset)); });
    if (count <= 0) throw IoError(kAction, directory_, count < 0 ? errno : EIO);
    offset += static_cast<std::uint64_t>(count);
    out = out.subspan(static_cast<std::size_t>(count));
  }
}

void PosixScratchFile::Clear() {
  if (::ftruncate(fd_.get(), 0) != 0) throw IoError(kAction, directory_, errno);
  bytes_ = 0;
}

}  // namespace dsv3::formats
