#pragma once

#include <filesystem>

#include "convert/verify/structure.h"

// Rank shards as VerifyStructure judges them; an internal part of structure.h.
namespace dsv3::convert {

// Judges a directory of rank shards by its layout.json: every file that it lists is there, readable
// and of this job, holds the tensors of its table and no others; the slices give every tensor of
// the original once. docs/verify.md lists the kinds; `unfinished` are added to them. Throws Error
// (kIo) for a directory that cannot be listed.
StructureReport VerifyRankStructure(const std::filesystem::path& directory,
                                    formats::Findings unfinished);

}  // namespace dsv3::convert
