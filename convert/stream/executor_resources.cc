// How memory and threads are shared out by the executor.

#include <algorithm>

#include <tbb/info.h>

#include "convert/packing/packed_file.h"
#include "convert/stream/changed_bytes.h"
#include "convert/stream/chunk.h"
#include "convert/stream/executor.h"
#include "convert/stream/late_head_file.h"
#include "convert/stream/packed_chunk.h"
#include "formats/io/open_files.h"

namespace dsv3::convert {
namespace {

// Threads beyond the compute threads: they wait for the disk, so that it always has requests.
constexpr unsigned kIoThreads = 4;
constexpr std::size_t kMaxChunkBytes = std::size_t{4} << 20;
constexpr std::size_t kMinChunkBytes = std::size_t{256} << 10;
// So many chunks should find room: fewer would leave threads without work.
constexpr std::uint64_t kEnoughChunks = 12;

std::size_t ChunkBytes(std::uint64_t memory_bytes) {
  std::size_t bytes = kMaxChunkBytes;
  // Of a copy: its bytes and as many source bytes.
  while (bytes > kMinChunkBytes &&
         MostChunkMemory({}, {}, bytes).bytes() * kEnoughChunks > memory_bytes) {
    bytes /= 2;
  }
  return bytes;
}

// Divides memory among chunks of this size.
void Share(std::uint64_t memory_bytes, unsigned threads, const ChunkMemory& chunk,
           ExecutorResources& resources) {
  resources.output_bytes = static_cast<std::size_t>(chunk.output_bytes);
  const std::uint64_t most_workers =
      std::max<std::uint64_t>(2, memory_bytes / (chunk.bytes() + chunk.made_bytes));
  resources.workers =
      static_cast<unsigned>(std::min<std::uint64_t>(threads + kIoThreads, most_workers));
  // Each worker reads one chunk at a time.
  const std::uint64_t made = resources.workers * chunk.made_bytes;
  const std::uint64_t affordable =
      std::max<std::uint64_t>(2, (memory_bytes - std::min(memory_bytes, made)) / chunk.bytes());
  // Beyond the workers' own, chunks only wait for their digests.
  resources.chunks = static_cast<std::size_t>(
      std::min<std::uint64_t>(affordable, resources.workers + 2 * resources.open_files));
  resources.memory_bytes = resources.chunks * chunk.bytes() + made;
}

// The most memory for the base of each byte that is packed: its value, and what that is made of.
std::uint64_t BasePerByte(const Plan& plan, std::span<const std::size_t> files) {
  std::uint64_t most = 0;
  for (const std::size_t file : files) {
    for (const PlannedTensor& tensor : plan.files[file].tensors) {
      if (tensor.base) most = std::max(most, 1 + tensor.base->input_bytes_per_output_byte());
    }
  }
  return most;
}

// Of files that are packed: a chunk has its packed form, too, and each thread and file has buffers.
ExecutorResources PlanPackingResources(const ExecutorOptions& options, const Plan& plan,
                                       std::span<const std::size_t> files,
                                       ExecutorResources resources) {
  const std::size_t file_bytes =
      LateHeadFile::kBufferBytes +
      (plan.pull == PullEncoding::kOverwrite ? ChangedBytes::kMemoryBytes : 0);
  const auto fixed_bytes = [&] {
    return resources.threads * kPackingThreadBytes + resources.made_files * file_bytes;
  };
  // With little memory fewer threads pack, and fewer files advance together.
  constexpr std::uint64_t kChunkOfThread = 4 * kPackedChunkBytes;
  while (resources.threads > 1 &&
         resources.threads * (kPackingThreadBytes + kChunkOfThread) > options.memory_bytes) {
    --resources.threads;
  }
  while (resources.made_files > resources.threads && fixed_bytes() > options.memory_bytes / 2) {
    --resources.made_files;
  }
  resources.open_files = std::min(resources.open_files, resources.made_files * 3 / 2);
  const std::uint64_t fixed = fixed_bytes();
  const std::uint64_t memory = options.memory_bytes - std::min(options.memory_bytes, fixed);
  const std::uint64_t base = BasePerByte(plan, files);
  ChunkMemory chunk;
  for (resources.chunk_bytes = kMaxChunkBytes;; resources.chunk_bytes /= 2) {
    chunk = MostChunkMemory(plan, files, resources.chunk_bytes, options.derived);
    chunk.input_bytes += PackedMemory(resources.chunk_bytes) + base * resources.chunk_bytes;
    const std::uint64_t wanted = std::max<std::uint64_t>(kEnoughChunks, resources.threads);
    if (resources.chunk_bytes <= kPackedChunkBytes || memory / chunk.bytes() >= wanted) break;
  }
  Share(memory, resources.threads, chunk, resources);
  resources.memory_bytes += fixed;
  return resources;
}

}  // namespace

unsigned ResolveThreads(unsigned threads) {
  return threads != 0 ? threads
                      : static_cast<unsigned>(std::max(1, tbb::info::default_concurrency()));
}

ExecutorResources PlanResources(const ExecutorOptions& options, const Plan& plan,
                                std::span<const std::size_t> files) {
  ExecutorResources resources;
  resources.threads = options.threads;
  std::size_t open_files = options.max_open_files;
  if (open_files == 0) {
    // So that each thread finds partners for its digests; more where files are read back, too, but
    // no more than this process may have open.
    open_files = plan.packed
                     ? std::min(std::clamp<std::size_t>(std::size_t{6} * options.threads, 12, 24),
                                formats::OpenFileBudget() / 4)
                     : std::clamp<std::size_t>(std::size_t{2} * options.threads, 4, 16);
  }
  resources.open_files = std::max<std::size_t>(1, std::min(open_files, files.size()));
  resources.made_files = resources.open_files;
  // Packed files are read back. That waits for the disk where packing waits for the processor, so
  // the next files are begun meanwhile.
  if (plan.packed && resources.open_files < files.size()) {
    resources.made_files = std::max<std::size_t>(1, resources.open_files * 2 / 3);
  }
  if (plan.packed) return PlanPackingResources(options, plan, files, resources);
  resources.chunk_bytes = ChunkBytes(options.memory_bytes);
  ChunkMemory chunk = MostChunkMemory(plan, files, resources.chunk_bytes, options.derived);
  // Smaller chunks where making what they read would leave threads without memory.
  const auto taken = [](const ChunkMemory& one) { return one.bytes() + one.made_bytes; };
  while (chunk.made_bytes > 0 && resources.chunk_bytes > kMinChunkBytes &&
         options.memory_bytes / taken(chunk) < options.threads + kIoThreads) {
    const ChunkMemory smaller =
        MostChunkMemory(plan, files, resources.chunk_bytes / 2, options.derived);
    if (3 * taken(smaller) > 2 * taken(chunk)) break;
    resources.chunk_bytes /= 2;
    chunk = smaller;
  }
  Share(options.memory_bytes, options.threads, chunk, resources);
  return resources;
}

}  // namespace dsv3::convert
