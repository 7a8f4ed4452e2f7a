#pragma once

#include <cstdint>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/stream/source_files.h"
#include "convert/verify/compare.h"
#include "convert/verify/compare_pairs.h"

// The reading and comparing of values; an internal part of compare.h.
namespace dsv3::convert {

struct PairResult {
  Comparison comparison = Comparison::kIdenticalBytes;
  DifferenceStatistics statistics;
};

// Compares all pairs that are in both checkpoints; results by position in `pairs`. They do not
// depend on threads or memory. Throws Error: kIo, kBadInput, kInterrupted.
std::vector<PairResult> ComparePairs(const TwoCheckpoints& both,
                                     const std::vector<TensorPair>& pairs,
                                     const CompareRequest& request, SourceFiles& sources,
                                     ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
