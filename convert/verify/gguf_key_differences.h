#pragma once

#include <optional>

#include "convert/open/open_model.h"
#include "formats/finding.h"

// The keys of a GGUF file against the config of the model that it is compared with; an internal
// part of compare.h.
namespace dsv3::convert {

// "different-keys" (warning): keys of the architecture that the file lacks or that are not what
// to-gguf writes of the model's config, or that its config has no such keys. Nothing where all are
// equal, and where the model has no config that is known. Keys that say how the file has kv_b_proj
// are left out where it has it in the form before keys and values were apart.
std::optional<formats::Finding> CompareGgufKeys(const OpenedModel& model, const OpenedModel& gguf);

}  // namespace dsv3::convert
