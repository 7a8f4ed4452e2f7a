#include "formats/io/open_files.h"

#include <algorithm>

#include <sys/resource.h>

namespace dsv3::formats {
namespace {

// Standard streams, the lock, the journal, files that threads are just reading.
constexpr rlim_t kOthers = 32;
constexpr rlim_t kLeast = 8;
constexpr rlim_t kMost = 1 << 16;

}  // namespace

std::size_t OpenFileBudget() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kLeast;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, kMost + kOthers);
  if (limit.rlim_cur < wanted) {
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = wanted;
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) limit.rlim_cur = before;
  }
  const rlim_t usable = std::min<rlim_t>(limit.rlim_cur, kMost + kOthers);
  return static_cast<std::size_t>(std::max(kLeast, usable - std::min(usable, kOthers)));
}

}  // namespace dsv3::formats
