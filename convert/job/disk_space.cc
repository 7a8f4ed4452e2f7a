#include "convert/job/disk_space.h"

#include <algorithm>

#include <sys/stat.h>

namespace dsv3::convert {
namespace {

dev_t DeviceOf(std::filesystem::path path) {
  path = std::filesystem::absolute(path);
  struct stat status {};
  while (stat(path.c_str(), &status) != 0 && path.has_relative_path()) path = path.parent_path();
  return status.st_dev;
}

// The highest point when files are made one after the other: when one begins, what the ones before
// it freed is free.
std::uint64_t Peak(const Plan& plan, const SourceUse& use, const std::vector<std::size_t>& files,
                   const std::vector<std::uint64_t>& freed_bytes) {
  std::vector<std::uint32_t> needs(use.files().size(), 0);
  for (const std::size_t file : files) {
    for (const std::uint32_t source : use.FilesOf(plan.files[file])) ++needs[source];
  }
  std::uint64_t taken = 0;
  std::uint64_t freed = 0;
  std::uint64_t peak = 0;
  for (const std::size_t file : files) {
    taken += plan.files[file].disk_bytes();
    peak = std::max(peak, taken - std::min(taken, freed));
    for (const std::uint32_t source : use.FilesOf(plan.files[file])) {
      if (--needs[source] == 0) freed += freed_bytes[source];
    }
  }
  return peak;
}

}  // namespace

DiskNeed EstimateDisk(const Plan& plan, const SourceUse& use, const std::vector<std::size_t>& files,
                      std::uint64_t other_bytes, const std::vector<std::uint64_t>& freed_bytes,
                      std::size_t open_files, std::uint64_t free_bytes) {
  DiskNeed need;
  need.open_files = std::max<std::size_t>(1, open_files);
  if (freed_bytes.empty()) {
    for (const std::size_t file : files) need.peak_bytes += plan.files[file].disk_bytes();
    need.peak_bytes += other_bytes;
    return need;
  }
  // Whatever order the files end in, all of them together is the most that is ever needed.
  for (const std::size_t file : files) need.peak_bytes += plan.files[file].disk_bytes();
  need.peak_bytes += other_bytes;
  if (need.peak_bytes <= free_bytes) return need;
  need.open_files = 1;
  need.peak_bytes = Peak(plan, use, files, freed_bytes) + other_bytes;
  return need;
}

bool SameFileSystem(const std::filesystem::path& a, const std::filesystem::path& b) {
  return DeviceOf(a) == DeviceOf(b);
}

}  // namespace dsv3::convert
