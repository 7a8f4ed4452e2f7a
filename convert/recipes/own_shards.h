#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/plan/planned_file.h"

namespace dsv3::convert {

using IsWanted = std::function<bool(const std::string& tensor)>;

// The model's shards as planned files under their own names and headers, byte for byte; `headers`
// are ModelFiles::headers. Where `is_wanted` is not empty, they hold the tensors alone that it
// takes (by their names in the files), under new headers with the metadata of the old ones, and
// shards without any are left out. `complete` is called for each planned tensor with its position
// in the catalog.
std::vector<PlannedFile> PlanOwnShards(
    const OpenedModel& model, std::vector<std::string> headers, const IsWanted& is_wanted = {},
    const std::function<void(std::uint32_t position, PlannedTensor& tensor)>& complete = {});

// Plans files under the names of the catalog's shards, and the index over them where `write_index`.
// `held` are the tensors of each, by the shard's position; one without any is left out. Returns
// where each shard's file is in Plan::files.
std::vector<std::size_t> PlanSameShards(const Catalog& catalog, std::vector<NamedExpressions> held,
                                        bool write_index, Plan& plan);

}  // namespace dsv3::convert
