#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/job/manifest.h"
#include "convert/plan/plan.h"
#include "formats/manifest.h"

// A packed checkpoint as a job's output: packed.json stands in place of the manifest.
namespace dsv3::convert {

// The recipe of plans with `packed`.
inline constexpr std::string_view kPackRecipe = "pack";

// Whether a file of this name is a packed one: "model.safetensors.packed".
bool IsPackedName(std::string_view name);

// The part of packed.json that names the job: the files that are packed or kept, with their sizes,
// and whether there was a base.
formats::ManifestJob PackedJobOf(const Plan& plan, const Catalog& catalog);

// What the packed.json in `directory` says, in the form of a manifest of pack's; nothing when there
// is none that can be read.
std::optional<ManifestSummary> ReadPackedOutput(const std::filesystem::path& directory);

}  // namespace dsv3::convert
