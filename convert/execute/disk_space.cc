#include "convert/execute/disk_space.h"

#include <algorithm>

#include <sys/stat.h>

#include "convert/execute/source_release.h"

namespace dsv3::convert {
namespace {

dev_t DeviceOf(std::filesystem::path path) {
  path = std::filesystem::absolute(path);
  struct stat status {};
  while (stat(path.c_str(), &status) != 0 && path.has_relative_path()) path = path.parent_path();
  return status.st_dev;
}

// The highest point when files are made in order, `open_files` at a time: when file i begins, all
// before it are there, and what files up to i - open_files freed is free.
std::uint64_t Peak(const Plan& plan, const Catalog& catalog, const std::vector<std::size_t>& files,
                   std::size_t open_files) {
  std::vector<std::uint32_t> needs(catalog.files().size(), 0);
  for (const std::size_t file : files) {
    for (const std::uint32_t source : SourcesOf(plan.files[file], catalog)) ++needs[source];
  }
  std::uint64_t taken = 0;
  std::uint64_t freed = 0;
  std::uint64_t peak = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (i >= open_files) {
      for (const std::uint32_t source : SourcesOf(plan.files[files[i - open_files]], catalog)) {
        if (--needs[source] == 0) freed += catalog.files()[source].bytes;
      }
    }
    taken += plan.files[files[i]].bytes;
    peak = std::max(peak, taken - std::min(taken, freed));
  }
  return peak;
}

}  // namespace

DiskNeed EstimateDisk(const Plan& plan, const Catalog& catalog,
                      const std::vector<std::size_t>& files, std::uint64_t other_bytes,
                      bool frees_sources, std::size_t open_files, std::uint64_t free_bytes) {
  DiskNeed need;
  need.open_files = std::max<std::size_t>(1, open_files);
  if (!frees_sources) {
    for (const std::size_t file : files) need.peak_bytes += plan.files[file].bytes;
    need.peak_bytes += other_bytes;
    return need;
  }
  need.peak_bytes = Peak(plan, catalog, files, need.open_files) + other_bytes;
  while (need.peak_bytes > free_bytes && need.open_files > 1) {
    --need.open_files;
    need.peak_bytes = Peak(plan, catalog, files, need.open_files) + other_bytes;
  }
  return need;
}

bool SameFileSystem(const std::filesystem::path& a, const std::filesystem::path& b) {
  return DeviceOf(a) == DeviceOf(b);
}

}  // namespace dsv3::convert
