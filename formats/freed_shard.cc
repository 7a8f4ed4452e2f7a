#include "formats/freed_shard.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <span>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/io/posix.h"

namespace dsv3::formats {
namespace {

void WriteAll(int fd, const FreedShard& shard, const FreedShard::SavedBytes& saved) {
  for (std::size_t done = 0; done < saved.bytes.size();) {
    const ssize_t count = RetryInterrupted([&] {
      return ::pwrite(fd, saved.bytes.data() + done, saved.bytes.size() - done,
                      static_cast<off_t>(saved.offset + done));
    });
    if (count <= 0) throw IoError("restore the saved bytes of", shard.name, errno);
    done += static_cast<std::size_t>(count);
  }
}

InputFile OpenSaved(const FreedShard& shard) {
  const UniqueFd fd(::memfd_create("dsv3-freed", MFD_CLOEXEC));
  if (fd.get() < 0 || ::ftruncate(fd.get(), static_cast<off_t>(shard.bytes)) != 0) {
    throw IoError("make room in memory for", shard.name, errno);
  }
  for (const FreedShard::SavedBytes& saved : shard.saved) WriteAll(fd.get(), shard, saved);
  constexpr std::int64_t kSecond = 1'000'000'000;
  struct timespec time {};
  time.tv_sec = shard.mtime_ns / kSecond;
  time.tv_nsec = shard.mtime_ns % kSecond;
  if (time.tv_nsec < 0) {
    time.tv_nsec += kSecond;
    --time.tv_sec;
  }
  const std::array<struct timespec, 2> times = {time, time};
  if (::futimens(fd.get(), times.data()) != 0) throw IoError("set the time of", shard.name, errno);
  // The new descriptor keeps the memory.
  return {fmt::format("/proc/self/fd/{}", fd.get()), shard.name};
}

}  // namespace

const FreedShard* FindFreed(const std::vector<FreedShard>& freed, std::string_view name,
                            const std::filesystem::path& path) {
  const auto found = std::find_if(freed.begin(), freed.end(),
                                  [&](const FreedShard& one) { return one.name == name; });
  return found == freed.end() || Exists(path) ? nullptr : &*found;
}

InputFile OpenOrFreed(const std::filesystem::path& path, const std::string& name,
                      const std::vector<FreedShard>& freed) {
  const FreedShard* const shard = FindFreed(freed, name, path);
  return shard == nullptr ? InputFile(path, name) : OpenSaved(*shard);
}

}  // namespace dsv3::formats
