#pragma once

#include <cstdint>
#include <string>

#include "convert/job/run_options.h"
#include "convert/job/run_plan.h"
#include "convert/open/base_tensors.h"
#include "convert/open/open_model.h"
#include "convert/packing/pull_weights.h"
#include "convert/plan/plan.h"
#include "convert/recipes/own_shards.h"

// A checkpoint → a directory of weight deltas against another one (pull_weights.h).
namespace dsv3::convert {

// A file of deltas for each file of tensors. `model` is one of OpenFilesToPack, in whose catalog
// `base` is. Throws Error (kBadInput), naming the tensor, for one that only one of the two has or
// that has another dtype or shape there, and for one that is too long for an overwrite.
Plan PlanPullWeights(const OpenedModel& model, const BaseTensors& base, std::uint64_t version,
                     PullEncoding encoding);

// The texts of the index and of the manifest, from the records of the plan's files.
std::string PullIndexText(const Plan& plan, const FileRecords& records, std::uint64_t version);
std::string PullManifestText(const Plan& plan, const ModelTensors& source, const RunOptions& run,
                             const FileRecords& records);

// The way back: the files of the base with the bytes that the deltas change, or those tensors of
// them that are wanted (empty: all). `model` is one of OpenPullWeights.
Plan PlanUnpackDeltas(const OpenedModel& model, const IsWanted& is_wanted);

}  // namespace dsv3::convert
