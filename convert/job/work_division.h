#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/job/run_options.h"
#include "convert/plan/plan.h"

// How runs share the weight files of a plan.
namespace dsv3::convert {

// Weight files (positions in Plan::files) that had best be made by one run, in an order in which
// neighbours share sources: the files of a rank, rank by rank.
using FileBundles = std::vector<std::vector<std::size_t>>;

// Each file of the plan in a bundle: those of `bundles`, or where that is empty each file alone.
FileBundles BundlesOf(const Plan& plan, const FileBundles& bundles);

// Cuts things of these sizes into `shares` runs of neighbours of about equal size: the share of
// each, ascending. No share is empty where there are enough things; the result depends on the
// arguments alone.
std::vector<std::size_t> Divide(std::span<const std::uint64_t> bytes, std::size_t shares);

// The files of a part, ascending.
std::vector<std::size_t> FilesOfPart(const Plan& plan, const FileBundles& bundles,
                                     const RunOptions::Part& part);

// The files `to_make` in at most `units` portions of about equal size, each a run of neighbouring
// bundles.
std::vector<std::vector<std::size_t>> WorkUnits(const Plan& plan, const FileBundles& bundles,
                                                std::span<const std::size_t> to_make,
                                                std::size_t units);

}  // namespace dsv3::convert
