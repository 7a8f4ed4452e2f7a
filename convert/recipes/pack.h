#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "convert/job/run_plan.h"
#include "convert/job/runner.h"
#include "convert/open/base_tensors.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// A checkpoint → the same checkpoint packed.
namespace dsv3::convert {

// The forms that pack writes: packed.json and packed files, or the weight deltas that engines pull.
enum class PackForm { kPacked, kPullWeights };

struct PackOptions {
  // The checkpoint against which tensors are packed that it has, too; empty: none.
  std::filesystem::path base = {};
  PackForm form = PackForm::kPacked;
  // Of kPullWeights: the version that IN is, at least 1; needed. `base` is the one before it.
  std::optional<std::uint64_t> weight_version = std::nullopt;
  bool idempotent = false;  // deltas that may be applied twice
};

// Each file of tensors packed under its name and ".packed"; index and side files as they are, and
// with `all_side_files` also what is left behind otherwise. `model` is one of OpenFilesToPack.
// `base`, which is in its catalog, gives what tensors are packed against; nullptr: none. Throws
// Error: kBadInput where two files of the packed checkpoint would have one name, kUsage for a base
// that has none of the tensors.
Plan PlanPack(const OpenedModel& model, const BaseTensors* base, bool all_side_files);

// The text of packed.json, from the records of the plan's files.
std::string PackedManifestText(const Plan& plan, const FileRecords& records);

// `dsv3-convert pack`.
ConversionKind PackConversion(const PackOptions& options = {});

}  // namespace dsv3::convert
