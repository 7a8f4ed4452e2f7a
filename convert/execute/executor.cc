#include "convert/execute/executor.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <semaphore>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include "convert/execute/chunk.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

// Threads beyond the compute threads: they wait for the disk, so that it always has requests.
constexpr unsigned kIoThreads = 4;
// Files whose chunks one thread digests side by side; more do not fit the registers.
constexpr std::size_t kDigestTogether = 4;
constexpr std::size_t kMaxChunkBytes = std::size_t{4} << 20;
constexpr std::size_t kMinChunkBytes = std::size_t{256} << 10;
// A chunk's memory: its bytes, and at most as many source bytes (a copy), rounded up for direct
// reads, with the gaps between them.
constexpr std::uint64_t ChunkMemory(std::size_t chunk_bytes) {
  return std::uint64_t{2} * chunk_bytes + 8 * formats::kDirectAlignment;
}

std::size_t ChunkBytes(std::uint64_t memory_bytes) {
  std::size_t bytes = kMaxChunkBytes;
  while (bytes > kMinChunkBytes && ChunkMemory(bytes) * 12 > memory_bytes) bytes /= 2;
  return bytes;
}

// An output file that is being written.
struct Lane {
  enum class State { kFree, kOpen, kCommitting };
  State state = State::kFree;
  std::size_t file = 0;  // position in Plan::files
  std::string header;
  std::unique_ptr<formats::OutputFile> output;
  std::optional<FileDigests> digests;
  std::uint64_t num_chunks = 0;
  std::uint64_t next_to_issue = 0;
  std::uint64_t next_to_digest = 0;
  bool digesting = false;                   // a thread holds the lane's digests
  std::map<std::uint64_t, Chunk*> written;  // waiting for their turn in the digests

  bool CanDigest() const {
    return !digesting && !written.empty() && written.begin()->first == next_to_digest;
  }
  std::uint64_t outstanding() const { return next_to_issue - next_to_digest; }
};

// The streaming pipeline. Each worker takes the next chunk, reads, evaluates and writes it, then
// digests whatever chunks are next in their files, several files side by side. A chunk waits only
// for earlier chunks of its file, which are in the hands of running workers, so the workers never
// wait in a circle.
class Executor {
 public:
  Executor(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
           const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
           const StopToken& stop)
      : plan_(plan),
        pending_(files.begin(), files.end()),
        sources_(sources),
        options_(options),
        sink_(sink),
        progress_(progress),
        stop_(stop),
        resources_(PlanResources(options, files.size())),
        lanes_(resources_.open_files),
        chunks_(resources_.chunks),
        compute_(static_cast<std::ptrdiff_t>(options.threads)) {
    for (Chunk& chunk : chunks_) free_.push_back(&chunk);
  }

  void Run() {
    const tbb::global_control parallelism(tbb::global_control::max_allowed_parallelism,
                                          resources_.workers + 1);
    tbb::task_arena arena(static_cast<int>(resources_.workers));
    arena.execute([this] {
      tbb::task_group workers;
      for (unsigned i = 0; i < resources_.workers; ++i) workers.run([this] { Work(); });
      workers.wait();
    });
    if (error_) std::rethrow_exception(error_);
    if (!Done()) {
      throw Error(ErrorCode::kInterrupted, "interrupted; run the same command again to continue");
    }
  }

 private:
  void Work() noexcept {
    try {
      while (Chunk* chunk = Next()) {
        Lane& lane = lanes_[chunk->lane];
        const PlannedFile& file = plan_.files[lane.file];
        const auto length = static_cast<std::size_t>(
            std::min<std::uint64_t>(resources_.chunk_bytes, file.bytes - chunk->offset));
        if (chunk->output_buffer.size() == 0) {
          chunk->output_buffer = formats::AlignedBuffer(resources_.chunk_bytes);
        }
        ReadChunk(file, length, sources_, *chunk);
        compute_.acquire();
        EvaluateOrRelease(file, lane.header, *chunk);
        compute_.release();
        if (stop_.stopped()) break;
        lane.output->WriteAt(chunk->offset, chunk->data);
        progress_.OnBytes(length, file.name);
        {
          const std::lock_guard lock(mutex_);
          lane.written.emplace(chunk->index, chunk);
        }
        DigestWhatIsReady(Partners::kWaitFor);
      }
    } catch (...) {
      Fail(std::current_exception());
    }
    // Those that wait for a chunk see that there is none to come.
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

  void EvaluateOrRelease(const PlannedFile& file, const std::string& header, Chunk& chunk) {
    try {
      EvaluateChunk(file, header, chunk);
    } catch (...) {
      compute_.release();
      throw;
    }
  }

  void Fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
  }

  bool Ended() const { return error_ != nullptr || stop_.stopped(); }

  bool Done() const {
    return pending_.empty() && std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) {
             return lane.state == Lane::State::kFree;
           });
  }

  // The next chunk to make, or nullptr when there is none left (or the job has ended). Digests what
  // waits for partners when there is nothing else to do.
  Chunk* Next() {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (Ended()) return nullptr;
      Lane* lane = free_.empty() ? nullptr : LaneToAdvance();
      if (lane != nullptr) {
        Chunk* chunk = free_.back();
        free_.pop_back();
        chunk->lane = static_cast<std::size_t>(lane - lanes_.data());
        chunk->index = lane->next_to_issue++;
        chunk->offset = chunk->index * resources_.chunk_bytes;
        return chunk;
      }
      if (Done()) return nullptr;
      if (std::any_of(lanes_.begin(), lanes_.end(),
                      [](const Lane& one) { return one.CanDigest(); })) {
        lock.unlock();
        DigestWhatIsReady(Partners::kDoWithout);
        lock.lock();
        continue;
      }
      // A chunk or lane becomes free, or there is nothing left to issue but others still digest.
      changed_.wait(lock);
    }
  }

  // The open file with the fewest chunks on their way, so that files advance together and their
  // digests find partners. Opens pending files while lanes are free.
  Lane* LaneToAdvance() {
    Lane* best = nullptr;
    for (Lane& lane : lanes_) {
      if (lane.state == Lane::State::kFree && !pending_.empty()) OpenLane(lane);
      if (lane.state != Lane::State::kOpen || lane.next_to_issue == lane.num_chunks) continue;
      if (best == nullptr || lane.outstanding() < best->outstanding()) best = &lane;
    }
    return best;
  }

  void OpenLane(Lane& lane) {
    lane.file = pending_.front();
    const PlannedFile& file = plan_.files[lane.file];
    lane.header = FileHeader(file);
    lane.digests.emplace(file, FileDigests::Options{options_.sha256, options_.tensor_sha256});
    lane.num_chunks = (file.bytes + resources_.chunk_bytes - 1) / resources_.chunk_bytes;
    lane.next_to_issue = 0;
    lane.next_to_digest = 0;
    lane.output = sink_.Open(lane.file);
    lane.state = Lane::State::kOpen;
    pending_.pop_front();
  }

  // Whether a digest may wait until as many files as go side by side have a chunk ready: that
  // saves processor time, and takes chunks.
  enum class Partners { kWaitFor, kDoWithout };

  // Digests chunks until none is next in its file, or other threads are at them, or they wait.
  void DigestWhatIsReady(Partners partners) {
    std::vector<Chunk*> chunks;
    std::vector<FileDigests::Part> parts;
    for (;;) {
      chunks.clear();
      parts.clear();
      {
        const std::lock_guard lock(mutex_);
        if (error_) return;
        const auto ready = static_cast<std::size_t>(std::count_if(
            lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.CanDigest(); }));
        if (partners == Partners::kWaitFor && !free_.empty() &&
            ready < std::min(kDigestTogether, lanes_.size())) {
          return;
        }
        for (Lane& lane : lanes_) {
          if (chunks.size() == kDigestTogether || !lane.CanDigest()) continue;
          lane.digesting = true;
          chunks.push_back(lane.written.begin()->second);
          parts.push_back({&*lane.digests, chunks.back()});
          lane.written.erase(lane.written.begin());
        }
      }
      if (chunks.empty()) return;
      compute_.acquire();
      FileDigests::AddSeveral(parts);
      compute_.release();
      for (Chunk* chunk : chunks) Digested(*chunk);
    }
  }

  void Digested(Chunk& chunk) {
    Lane& lane = lanes_[chunk.lane];
    bool complete = false;
    {
      const std::lock_guard lock(mutex_);
      complete = ++lane.next_to_digest == lane.num_chunks;
      lane.digesting = false;
      if (complete) lane.state = Lane::State::kCommitting;  // this thread's alone from here
      free_.push_back(&chunk);
    }
    changed_.notify_one();
    if (!complete) return;
    sink_.Commit(lane.file, std::move(lane.output), lane.digests->Finish());
    lane.digests.reset();
    const std::lock_guard lock(mutex_);
    lane.state = Lane::State::kFree;
    changed_.notify_all();
  }

  const Plan& plan_;
  std::deque<std::size_t> pending_;  // files not yet opened
  SourceFiles& sources_;
  const ExecutorOptions& options_;
  OutputSink& sink_;
  ProgressSink& progress_;
  const StopToken& stop_;
  const ExecutorResources resources_;

  std::mutex mutex_;  // guards what follows, except a lane's digests while `digesting`
  std::condition_variable changed_;
  std::vector<Lane> lanes_;
  std::vector<Chunk> chunks_;
  std::vector<Chunk*> free_;
  std::exception_ptr error_;

  std::counting_semaphore<> compute_;
};

}  // namespace

unsigned ResolveThreads(unsigned threads) {
  return threads != 0 ? threads
                      : static_cast<unsigned>(std::max(1, tbb::info::default_concurrency()));
}

ExecutorResources PlanResources(const ExecutorOptions& options, std::size_t num_files) {
  ExecutorResources resources;
  std::size_t open_files = options.max_open_files;
  if (open_files == 0) {
    // So that each thread finds partners for its digests.
    open_files = std::clamp<std::size_t>(std::size_t{2} * options.threads, 4, 16);
  }
  resources.open_files = std::max<std::size_t>(1, std::min(open_files, num_files));
  resources.chunk_bytes = ChunkBytes(options.memory_bytes);
  const std::uint64_t affordable =
      std::max<std::uint64_t>(2, options.memory_bytes / ChunkMemory(resources.chunk_bytes));
  resources.workers =
      static_cast<unsigned>(std::min<std::uint64_t>(options.threads + kIoThreads, affordable));
  // Beyond the workers' own, chunks only wait for their digests.
  resources.chunks = static_cast<std::size_t>(
      std::min<std::uint64_t>(affordable, resources.workers + 2 * resources.open_files));
  resources.memory_bytes = resources.chunks * ChunkMemory(resources.chunk_bytes);
  return resources;
}

void Execute(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
             const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
             const StopToken& stop) {
  if (files.empty()) return;
  Executor(plan, files, sources, options, sink, progress, stop).Run();
}

}  // namespace dsv3::convert
