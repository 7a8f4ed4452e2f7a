#pragma once

#include <cstddef>
#include <span>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/job/run_options.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// Whether one of `files`, positions in a plan, is among those that a pass is made for.
bool IsPassNeeded(std::span<const std::size_t> of_pass, std::span<const std::size_t> files);

// Reads the weights of those passes that one of `files` (positions in the plan) needs, each byte
// once, and finishes these passes; those that are finished already are passed over. Throws Error:
// kBadInput as FirstPass::Finish does, kIo, kInterrupted.
void RunFirstPasses(const Catalog& catalog, std::span<const Bf16ToFp8Plan::Pass> passes,
                    std::span<const std::size_t> files, SourceFiles& sources, const RunOptions& run,
                    ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
