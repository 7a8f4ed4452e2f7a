#include "convert/job/work_division.h"

#include <algorithm>
#include <utility>

namespace dsv3::convert {
namespace {

std::uint64_t BytesOf(const Plan& plan, const std::vector<std::size_t>& files) {
  std::uint64_t bytes = 0;
  for (const std::size_t file : files) bytes += plan.files[file].bytes;
  return bytes;
}

// Bundles of one share become one; without files there is none.
std::vector<std::vector<std::size_t>> Join(const Plan& plan, const FileBundles& bundles,
                                           std::size_t shares) {
  std::vector<std::uint64_t> bytes;
  for (const std::vector<std::size_t>& bundle : bundles) bytes.push_back(BytesOf(plan, bundle));
  const std::vector<std::size_t> share_of = Divide(bytes, shares);
  std::vector<std::vector<std::size_t>> joined(shares);
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    std::vector<std::size_t>& share = joined[share_of[i]];
    share.insert(share.end(), bundles[i].begin(), bundles[i].end());
  }
  for (std::vector<std::size_t>& share : joined) std::sort(share.begin(), share.end());
  return joined;
}

}  // namespace

FileBundles BundlesOf(const Plan& plan, const FileBundles& bundles) {
  if (!bundles.empty()) return bundles;
  FileBundles alone;
  for (std::size_t i = 0; i < plan.files.size(); ++i) alone.push_back({i});
  return alone;
}

std::vector<std::size_t> Divide(std::span<const std::uint64_t> bytes, std::size_t shares) {
  double total = 0;
  for (const std::uint64_t each : bytes) total += static_cast<double>(each);
  std::vector<std::size_t> share_of;
  double before = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    // The share in which the middle of it lies.
    const auto size = static_cast<double>(bytes[i]);
    const double middle = before + size / 2;
    before += size;
    std::size_t share = 0;
    if (total > 0) {
      share = static_cast<std::size_t>(middle * static_cast<double>(shares) / total);
    }
    // No share is left out, neither on the way nor at the end.
    const std::size_t left = bytes.size() - i;
    if (shares > left) share = std::max(share, shares - left);
    share = std::min({share, i == 0 ? 0 : share_of.back() + 1, shares - 1});
    share_of.push_back(share);
  }
  return share_of;
}

std::vector<std::size_t> FilesOfPart(const Plan& plan, const FileBundles& bundles,
                                     const RunOptions::Part& part) {
  // More parts than bundles: the last ones have nothing to do.
  const std::size_t shares =
      std::max<std::size_t>(1, std::min<std::uint64_t>(part.count, bundles.size()));
  if (part.index >= shares) return {};
  return Join(plan, bundles, shares)[part.index];
}

std::vector<std::vector<std::size_t>> WorkUnits(const Plan& plan, const FileBundles& bundles,
                                                std::span<const std::size_t> to_make,
                                                std::size_t units) {
  std::vector<char> wanted(plan.files.size(), 0);
  for (const std::size_t file : to_make) wanted[file] = 1;
  FileBundles left;
  for (const std::vector<std::size_t>& bundle : bundles) {
    std::vector<std::size_t> files;
    for (const std::size_t file : bundle) {
      if (wanted[file] != 0) files.push_back(file);
    }
    if (!files.empty()) left.push_back(std::move(files));
  }
  return Join(plan, left, std::min(units, left.size()));
}

}  // namespace dsv3::convert
