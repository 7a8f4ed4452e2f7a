#pragma once

#include <cstddef>
#include <span>

#include "convert/catalog/progress.h"
#include "convert/plan/plan.h"
#include "convert/stream/executor.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// The resources that ExecuteSharedReads derives from its options.
struct SharedReadResources {
  std::uint64_t panel_bytes = 0;   // memory of a panel, about
  std::size_t panels = 0;          // on their way at most
  std::uint64_t append_bytes = 0;  // each open output file's buffer
  // Whether there are more files than may be open: each is opened anew to be written.
  bool close_after_write = false;
  unsigned workers = 1;            // threads, those that wait for the disk included
  std::uint64_t memory_bytes = 0;  // of all panels and buffers at most
};
SharedReadResources PlanSharedReads(const ExecutorOptions& options, const Plan& plan,
                                    std::span<const std::size_t> files);

// As Execute, for plans whose tensors are all slices (Expression::slice): reads and makes each
// origin once, in one order that suits every file, and gives each of `files` its part, so that all
// of them advance together. Rows that no file needs are not read, except of plans with
// source_digests, whose sources are read whole and checked. Bytes, records and errors are those of
// Execute, but that records have no digests of sources; memory is bounded by options.memory_bytes
// and a buffer for each file that is open (but rows longer than a panel are held whole). The number
// of open descriptors is bounded by the limit of the process.
//
// Tensors of one origin must have the same order in all files of a group (PlannedFile::group):
// files of one group advance together, groups one after the other (Error kInternal otherwise).
void ExecuteSharedReads(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
                        const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
                        const StopToken& stop);

}  // namespace dsv3::convert
