#include "formats/io/page_cache.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "formats/io/posix.h"

namespace dsv3::formats {

bool IsInPageCache(int fd, std::uint64_t begin, std::uint64_t end) {
  constexpr long kCachestat = 451;  // the C library of Debian 12 has no name for it
  struct {
    std::uint64_t offset;
    std::uint64_t bytes;
  } range = {begin, end - begin};
  struct {
    std::uint64_t cached_pages;
    std::uint64_t others[4];
  } found = {};
  if (end <= begin || ::syscall(kCachestat, fd, &range, &found, 0) != 0) return false;
  const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t pages = (end - 1) / page_bytes - begin / page_bytes + 1;
  return found.cached_pages >= pages;
}

bool IsInPageCache(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t end) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  return fd.get() >= 0 && IsInPageCache(fd.get(), begin, end);
}

}  // namespace dsv3::formats
