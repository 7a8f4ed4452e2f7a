#include "convert/stream/executor.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/stream/chunk.h"
#include "convert/stream/file_hash.h"
#include "convert/stream/file_packer.h"
#include "convert/stream/output_digests.h"
#include "convert/stream/packed_chunk.h"
#include "convert/stream/packed_file_writer.h"
#include "convert/stream/page_writer.h"
#include "convert/stream/pull_file_writer.h"
#include "convert/stream/slots.h"
#include "convert/stream/workers.h"
#include "formats/error.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Files whose chunks one thread hashes side by side; more do not fit the registers.
constexpr std::size_t kHashTogether = 4;

// What a file's chunks pass in the file's order, one at a time.
struct InOrder {
  std::uint64_t next = 0;  // index of the chunk
  bool busy = false;       // a thread has it
};

// An output file that is being written.
struct Lane {
  enum class State { kFree, kOpen, kEnding };
  State state = State::kFree;
  std::size_t file = 0;  // position in Plan::files
  std::string header;
  std::unique_ptr<formats::OutputFile> output;
  std::optional<PageWriter> writer;
  std::unique_ptr<PackedFileWriter> packer;  // in place of the writer, where the file is packed
  std::optional<FileDigests> digests;
  bool reads_back = false;        // all bytes are written; the chunks read them back
  std::uint64_t next_offset = 0;  // where the next chunk begins
  std::uint64_t end = 0;          // of the last chunk
  std::uint64_t next_to_issue = 0;
  InOrder hashing;    // the digest of the file
  InOrder digesting;  // the digests of its tensors; a packed file's chunk is also appended
  std::map<std::uint64_t, Chunk*> done;  // made or read back, and not through with both

  bool IsReady(const InOrder& step) const { return !step.busy && done.count(step.next) != 0; }
  std::uint64_t outstanding() const {
    return next_to_issue - std::min(hashing.next, digesting.next);
  }
};

// The streaming pipeline. Each worker takes the next chunk, reads, evaluates and writes it, then
// digests whatever chunks are next in their files: the files' digests of several side by side, and
// beside these, in another thread, the tensors' digests. A chunk waits only for earlier chunks of
// its file, which are in the hands of running workers, so the workers never wait in a circle.
//
// By-products are written by the chunk that makes them. The file's digest waits for none of them:
// where it cannot go on, the rest is read back when the file is wholly written, and a packed file
// is read back whole. What is read back goes the same way in chunks of its own.
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
        resources_(PlanResources(options, plan, files)),
        workers_(resources_.workers, resources_.threads, stop),
        packer_(plan.packed ? resources_.threads : 0),
        lanes_(resources_.open_files),
        chunks_(resources_.chunks) {}

  void Run() {
    workers_.Run([this](unsigned) { Work(); });
    if (!Done()) ThrowInterrupted();
  }

 private:
  void Work() {
    while (Chunk* chunk = Next()) {
      Lane& lane = lanes_[chunk->lane];
      lane.reads_back ? ReadBack(lane, *chunk) : Make(lane, *chunk);
      if (workers_.ended()) return;
      {
        const Workers::Lock lock = workers_.Acquire();
        lane.done.emplace(chunk->index, chunk);
      }
      DigestWhatIsReady(Partners::kWaitFor);
    }
  }

  void Make(Lane& lane, Chunk& chunk) {
    const PlannedFile& file = plan_.files[lane.file];
    ReadChunk(file, resources_.output_bytes, sources_, chunk);
    {
      const ComputeSlot slot = workers_.Compute();
      EvaluateChunk(file, lane.header, chunk);
      if (plan_.packed && !plan_.pull) packer_.Pack(file, chunk);
    }
    if (plan_.packed || workers_.ended()) return;
    progress_.OnBytes(WriteChunk(chunk, *lane.writer), file.name);
  }

  void ReadBack(const Lane& lane, Chunk& chunk) {
    const auto length = static_cast<std::size_t>(chunk.end - chunk.offset);
    ProvideOutputBuffer(std::max(resources_.output_bytes, formats::InputFile::ScratchBytes(length)),
                        chunk);
    const std::span<std::byte> scratch = chunk.output_buffer.span();
    const std::span<const std::byte> data =
        sink_.ReadBack(lane.file, chunk.offset, length, scratch);
    chunk.data = scratch.subspan(static_cast<std::size_t>(data.data() - scratch.data()), length);
    // Progress names the file, but counts only the bytes that PlannedRest announced.
    const PlannedFile& file = plan_.files[lane.file];
    const std::uint64_t announced = std::max(chunk.offset, lane.end - PlannedRest(file));
    progress_.OnBytes(chunk.end - std::min(chunk.end, announced), file.name);
  }

  bool Done() const {
    return pending_.empty() && std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) {
             return lane.state == Lane::State::kFree;
           });
  }

  // The next chunk to make or to read back, or nullptr when there is none left (or the job has
  // ended). Digests chunks that wait for partners when there is nothing else to do.
  Chunk* Next() {
    Workers::Lock lock = workers_.Acquire();
    for (;;) {
      if (workers_.ended()) return nullptr;
      Lane* lane = chunks_.any_free() ? LaneToAdvance() : nullptr;
      if (lane != nullptr) {
        Chunk& chunk = chunks_.Take();
        chunk.lane = static_cast<std::size_t>(lane - lanes_.data());
        chunk.index = lane->next_to_issue++;
        chunk.offset = lane->next_offset;
        chunk.end = EndOf(*lane);
        lane->next_offset = chunk.end;
        return &chunk;
      }
      if (Done()) return nullptr;
      if (std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& one) {
            return one.IsReady(one.hashing) || one.IsReady(one.digesting);
          })) {
        lock.unlock();
        DigestWhatIsReady(Partners::kDoWithout);
        lock.lock();
        continue;
      }
      // A chunk or lane becomes free, or there is nothing left to issue but others still digest.
      workers_.Wait(lock);
    }
  }

  // Of the chunk that begins at lane.next_offset.
  std::uint64_t EndOf(const Lane& lane) const {
    const std::uint64_t bytes = resources_.chunk_bytes;
    if (lane.reads_back) return std::min(lane.end, lane.next_offset + bytes);
    const auto end = plan_.packed ? PackedChunkEnd : ChunkEnd;
    return end(plan_.files[lane.file], lane.next_offset, bytes);
  }

  // The open file with the fewest chunks on their way, so that files advance together and their
  // digests find partners. Opens pending files while lanes are free.
  Lane* LaneToAdvance() {
    Lane* best = nullptr;
    auto made =
        static_cast<std::size_t>(std::count_if(lanes_.begin(), lanes_.end(), [](const Lane& lane) {
          return lane.state != Lane::State::kFree && !lane.reads_back;
        }));
    for (Lane& lane : lanes_) {
      if (lane.state == Lane::State::kFree && !pending_.empty() && made < resources_.made_files) {
        OpenLane(lane);
        ++made;
      }
      if (lane.state != Lane::State::kOpen || lane.next_offset == lane.end) continue;
      if (best == nullptr || lane.outstanding() < best->outstanding()) best = &lane;
    }
    return best;
  }

  void OpenLane(Lane& lane) {
    lane.file = pending_.front();
    const PlannedFile& file = plan_.files[lane.file];
    lane.header = FileHeader(file);
    lane.digests.emplace(file, FileDigests::Options{options_.sha256, options_.tensor_sha256,
                                                    options_.checks, &sources_.catalog()});
    lane.reads_back = false;
    lane.next_offset = 0;
    lane.end = file.bytes;
    lane.next_to_issue = 0;
    lane.hashing = {};
    lane.digesting = {};
    lane.output = sink_.Open(lane.file);
    if (plan_.pull) {
      lane.packer = std::make_unique<PullFileWriter>(file, *plan_.pull, *lane.output,
                                                     options_.make_scratch, options_.sha256);
    } else if (plan_.packed) {
      lane.packer = std::make_unique<FilePacker>(file, lane.header, *lane.output, options_.sha256);
    } else {
      lane.writer.emplace(*lane.output, file.bytes);
    }
    lane.state = Lane::State::kOpen;
    pending_.pop_front();
  }

  // Whether a digest may wait until kHashTogether files have a chunk ready: that saves processor
  // time, but holds more chunks.
  enum class Partners { kWaitFor, kDoWithout };

  // Digests chunks until no chunk is next in its file, other threads digest those that are, or the
  // chunks wait for partners.
  void DigestWhatIsReady(Partners partners) {
    for (;;) {
      std::vector<Chunk*> to_hash;
      Chunk* to_digest = nullptr;
      {
        const Workers::Lock lock = workers_.Acquire();
        if (workers_.failed()) return;
        to_hash = TakeToHash(partners);
        if (to_hash.empty()) to_digest = TakeToDigest();
      }
      if (!to_hash.empty()) {
        Hash(to_hash);
        Passed(to_hash, &Lane::hashing);
      } else if (to_digest != nullptr) {
        if (!Digest(*to_digest)) return;
        Passed(std::span(&to_digest, 1), &Lane::digesting);
      } else {
        return;
      }
    }
  }

  std::vector<Chunk*> TakeToHash(Partners partners) {
    std::vector<Chunk*> chunks;
    const auto ready = static_cast<std::size_t>(std::count_if(
        lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.IsReady(lane.hashing); }));
    if (partners == Partners::kWaitFor && chunks_.any_free() &&
        ready < std::min(kHashTogether, lanes_.size())) {
      return chunks;
    }
    for (Lane& lane : lanes_) {
      if (chunks.size() == kHashTogether || !lane.IsReady(lane.hashing)) continue;
      lane.hashing.busy = true;
      chunks.push_back(lane.done.at(lane.hashing.next));
    }
    return chunks;
  }

  Chunk* TakeToDigest() {
    for (Lane& lane : lanes_) {
      if (!lane.IsReady(lane.digesting)) continue;
      lane.digesting.busy = true;
      return lane.done.at(lane.digesting.next);
    }
    return nullptr;
  }

  // Chunks of different files.
  void Hash(std::span<Chunk* const> chunks) {
    const ComputeSlot slot = workers_.Compute();
    std::vector<FileHash::Part> parts;
    for (const Chunk* const chunk : chunks) {
      Lane& lane = lanes_[chunk->lane];
      parts.push_back(!lane.reads_back ? lane.digests->Take(*chunk)
                      : lane.packer    ? lane.packer->TakeReadBack(chunk->data)
                                       : lane.digests->TakeRest(chunk->data));
    }
    FileHash::UpdateMany(parts);
  }

  // False where the job has ended.
  bool Digest(const Chunk& chunk) {
    Lane& lane = lanes_[chunk.lane];
    if (lane.reads_back) return true;
    {
      const ComputeSlot slot = workers_.Compute();
      lane.digests->Add(chunk);
    }
    if (!lane.packer) return true;
    if (workers_.ended()) return false;
    lane.packer->Append(chunk);
    progress_.OnBytes(chunk.data.size(), plan_.files[lane.file].name);
    return true;
  }

  // Frees the chunks that are through with both, and ends the files whose last ones they are.
  void Passed(std::span<Chunk* const> chunks, InOrder Lane::*step) {
    std::vector<Lane*> ended;
    {
      const Workers::Lock lock = workers_.Acquire();
      for (Chunk* chunk : chunks) {
        Lane& lane = lanes_[chunk->lane];
        ++(lane.*step).next;
        (lane.*step).busy = false;
        if (std::min(lane.hashing.next, lane.digesting.next) <= chunk->index) continue;
        lane.done.erase(chunk->index);
        if (chunk->end == lane.end) {
          lane.state = Lane::State::kEnding;  // this thread's alone from here
          ended.push_back(&lane);
        }
        chunks_.Free(*chunk);
      }
    }
    workers_.NotifyAll();
    for (Lane* lane : ended) {
      if (lane->reads_back || !BeginReadBack(*lane)) Commit(*lane);
    }
  }

  // Completes the bytes of the file. Where some could not be digested on their way to the disk, of
  // a packed file all, it opens the lane to read these back, and returns true.
  bool BeginReadBack(Lane& lane) {
    const PlannedFile& file = plan_.files[lane.file];
    if (lane.packer) {
      lane.packer->Finish();
    } else if (lane.writer->bytes() != file.bytes) {
      throw Error(
          ErrorCode::kInternal,
          fmt::format("{}: {} were made, expected {}", formats::ShownPath(file.name),
                      formats::ExactBytes(lane.writer->bytes()), formats::ExactBytes(file.bytes)),
          {file.name, ""});
    }
    const std::uint64_t begin = lane.packer ? 0 : lane.digests->BeginRest();
    const std::uint64_t end = lane.packer ? lane.packer->bytes() : file.bytes;
    if (begin == end) return false;
    {
      const Workers::Lock lock = workers_.Acquire();
      lane.reads_back = true;
      lane.next_offset = begin;
      lane.end = end;
      lane.state = Lane::State::kOpen;
    }
    workers_.NotifyAll();
    return true;
  }

  void Commit(Lane& lane) {
    FileRecord record = lane.digests->Finish();
    if (lane.packer) lane.packer->Complete(record);
    lane.writer.reset();
    lane.packer.reset();
    sink_.Commit(lane.file, std::move(lane.output), std::move(record));
    lane.digests.reset();
    const Workers::Lock lock = workers_.Acquire();
    lane.state = Lane::State::kFree;
    workers_.NotifyAll();
  }

  const Plan& plan_;
  std::deque<std::size_t> pending_;  // files not yet opened
  SourceFiles& sources_;
  const ExecutorOptions& options_;
  OutputSink& sink_;
  ProgressSink& progress_;
  const ExecutorResources resources_;

  Workers workers_;  // their lock guards pending_ and all below, but what a lane's busy steps use
  ChunkPacker packer_;
  std::vector<Lane> lanes_;
  Slots<Chunk> chunks_;
};

}  // namespace

void RequireChecks(const Plan& plan, const ExecutorOptions& options) {
  if (plan.source_digests.empty() || options.checks != nullptr) return;
  throw Error(ErrorCode::kInternal, "a plan's digests of its sources are not checked");
}

void Execute(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
             const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
             const StopToken& stop) {
  if (files.empty()) return;
  RequireChecks(plan, options);
  Executor(plan, files, sources, options, sink, progress, stop).Run();
}

}  // namespace dsv3::convert
