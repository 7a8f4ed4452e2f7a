#pragma once

#include <filesystem>

#include "convert/job/journal.h"
#include "convert/job/work_division.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// --finish: throws Error (kUsage) unless journals of all parts are there and every file in them has
// its size (with `waits`, WaitsToBeVisible, also under NAME.partial); names the parts that are not
// complete, and the files that they lack.
void RequireAllParts(const std::filesystem::path& output, const Plan& plan,
                     const FileBundles& bundles, const JobJournals& journals, bool waits);

}  // namespace dsv3::convert
