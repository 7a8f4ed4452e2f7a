#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "convert/job/source_use.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// Disk that writing the given weight files of a plan takes at its highest point, beyond what is
// taken now. `freed_bytes` says how much of the output's file system each source file (by its
// position in `use`) gives back when it is deleted; it is empty where none is deleted.
// `open_files` output files are in the making at a time.
struct DiskNeed {
  std::uint64_t peak_bytes = 0;
  // As asked for; 1 where the files fit `free_bytes` only if sources are freed on the way. Several
  // files at once could end in any order, so the space that is free when the next file begins would
  // not be known.
  std::size_t open_files = 0;
};
DiskNeed EstimateDisk(const Plan& plan, const SourceUse& use, const std::vector<std::size_t>& files,
                      std::uint64_t other_bytes, const std::vector<std::uint64_t>& freed_bytes,
                      std::size_t open_files, std::uint64_t free_bytes);

// Whether two paths (or their nearest existing ancestors) are on one file system.
bool SameFileSystem(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace dsv3::convert
