#pragma once

#include <cstddef>
#include <span>

#include "convert/execute/executor.h"
#include "convert/execute/progress.h"
#include "convert/execute/source_files.h"
#include "convert/plan/plan.h"

namespace dsv3::convert {

// What ExecuteSharedReads makes of its options.
struct SharedReadResources {
  std::uint64_t panel_bytes = 0;   // of an origin that are made at a time, about
  std::uint64_t append_bytes = 0;  // each open output file's buffer
  std::size_t open_outputs = 0;    // output files whose descriptors are open at most
  unsigned workers = 1;            // threads, those that wait for the disk included
  std::uint64_t memory_bytes = 0;  // of all panels and buffers at most
};
SharedReadResources PlanSharedReads(const ExecutorOptions& options, const Plan& plan,
                                    std::span<const std::size_t> files);

// As Execute, for plans whose tensors are all slices (Expression::slice): reads and makes each
// origin once, in one order that suits every file, and gives each of `files` its part, so that all
// of them advance together. Rows that no file needs are not read, except of plans with
// source_digests, whose sources are read whole and checked. Bytes, records and errors are those of
// Execute; memory is bounded by options.memory_bytes and a buffer for each file that is open. The
// number of open descriptors is bounded by what the process may have: files beyond it are closed
// and opened again.
//
// Tensors of one origin must stand in the same order in all files of a group (PlannedFile::group):
// files of one group advance together, groups one after the other (Error kInternal otherwise).
void ExecuteSharedReads(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
                        const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
                        const StopToken& stop);

}  // namespace dsv3::convert
