#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "convert/catalog/progress.h"
#include "convert/plan/derived_tensors.h"
#include "convert/plan/plan.h"
#include "convert/stream/changed_bytes.h"
#include "convert/stream/record.h"
#include "convert/stream/source_checks.h"
#include "convert/stream/source_files.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// Opens output files and takes them when they are finished. Several threads call it at once, for
// different files.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // The file to write plan.files[file] into.
  virtual std::unique_ptr<formats::OutputFile> Open(std::size_t file) = 0;
  // The same file again, after it was closed before all its bytes were written.
  virtual std::unique_ptr<formats::OutputFile> Reopen(std::size_t file) = 0;
  // All bytes are written and digested; makes the file durable and visible.
  virtual void Commit(std::size_t file, std::unique_ptr<formats::OutputFile> output,
                      FileRecord record) = 0;
  // Reads bytes of a file that is wholly written and not committed. Returns where in `scratch` they
  // lie, which is aligned to formats::kDirectAlignment and holds
  // formats::InputFile::ScratchBytes(length).
  virtual std::span<const std::byte> ReadBack(std::size_t file, std::uint64_t offset,
                                              std::size_t length, std::span<std::byte> scratch) = 0;
};

struct ExecutorOptions {
  unsigned threads = 1;  // compute threads, at least 1; threads that wait for the disk come on top
  std::uint64_t memory_bytes = 0;  // bound for chunk memory
  // The derived tensors among the sources, whose making takes some of it.
  std::span<const DerivedTensors> derived = {};
  // Output files that advance together, or of ExecuteSharedReads, whose descriptors stay open; 0:
  // chosen.
  std::size_t max_open_files = 0;
  // Of plans with `pull`: where weight deltas keep what they cannot hold in memory.
  MakeScratch make_scratch = {};
  bool sha256 = true;
  bool tensor_sha256 = false;
  SourceChecks* checks = nullptr;  // of plans with source_digests; the caller runs CheckApart
};

// Throws Error (kInternal) where a plan has digests that nothing checks.
void RequireChecks(const Plan& plan, const ExecutorOptions& options);

inline constexpr std::uint64_t kDefaultMemoryBytes = std::uint64_t{160} << 20;
inline constexpr std::uint64_t kMinMemoryBytes = std::uint64_t{8} << 20;

// Resolves `threads` 0 to the number of processors this process may use.
unsigned ResolveThreads(unsigned threads);

// The resources that Execute derives from its options.
struct ExecutorResources {
  unsigned threads = 1;            // that compute at a time
  std::size_t open_files = 1;      // output files that advance together
  std::size_t made_files = 1;      // those of them that are made at a time; others are read back
  std::size_t chunk_bytes = 0;     // of an output file that are made at a time, about
  std::size_t output_bytes = 0;    // buffer that takes any chunk with its by-products
  std::size_t chunks = 0;          // in flight at most
  unsigned workers = 1;            // threads, those that wait for the disk included
  std::uint64_t memory_bytes = 0;  // of all chunks at most, and of what is made for them
};
ExecutorResources PlanResources(const ExecutorOptions& options, const Plan& plan,
                                std::span<const std::size_t> files);

// Makes plan.files[i] for each i in `files`, in that order, several advancing together. Memory is
// bounded by options.memory_bytes whatever the size of a tensor or file (but two of the longest
// pieces that cannot be cut are always held whole, and so are scale rows longer than a chunk);
// bytes do not depend on options. Each source byte is read once, but for what expressions look up
// beside their streams; each byte is written once. Reports to `progress` each written byte, and as
// many bytes that are read back of a file as PlannedRest gives. Throws the first error of any
// thread, kInterrupted when `stop` was requested before all was done.
void Execute(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
             const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
             const StopToken& stop);

}  // namespace dsv3::convert
