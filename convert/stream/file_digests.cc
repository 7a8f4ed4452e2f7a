#include "convert/stream/file_digests.h"

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <numeric>
#include <span>
#include <utility>

#include "convert/stream/executor.h"
#include "convert/stream/workers.h"
#include "formats/hash/git_blob.h"
#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/input_file.h"

namespace dsv3::convert {
namespace {

// Streams that one thread hashes side by side; formats::Sha256::UpdateMany gains up to so many.
constexpr std::size_t kMaxLanes = 4;
// Threads beyond the compute threads, which keep the disk busy.
constexpr unsigned kReaders = 4;
// Pieces of one file in memory: one is read while the other is hashed.
constexpr std::size_t kPiecesPerFile = 2;
constexpr std::size_t kMemoryBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxPieceBytes = std::size_t{256} << 10;
constexpr std::size_t kMinPieceBytes = std::size_t{64} << 10;

struct Piece {
  formats::AlignedBuffer buffer;
  std::span<const std::byte> data;  // within `buffer`
};

// A file that is being read and hashed, from its first byte or range to its last.
class FileStream {
 public:
  FileStream(const FileToDigest& wanted, FileDigest& result, std::size_t piece_bytes)
      : wanted_(wanted), result_(result), piece_bytes_(piece_bytes) {}

  // What follows is for the thread that reads; one at a time.
  bool is_open() const { return input_.has_value(); }
  void Open() {
    input_.emplace(wanted_.path, wanted_.name);
    result_.bytes = input_->bytes();
    whole_ = wanted_.sha256 || wanted_.git_blob_sha1;
    end_ = whole_                   ? input_->bytes()
           : wanted_.ranges.empty() ? 0
                                    : std::min(wanted_.ranges.back().end, input_->bytes());
    next_ = whole_ || wanted_.ranges.empty() ? 0 : std::min(wanted_.ranges.front().begin, end_);
    hashed_ = next_;
    if (wanted_.git_blob_sha1) git_.emplace(input_->bytes());
  }
  Piece Read(formats::AlignedBuffer buffer) {
    const auto length =
        static_cast<std::size_t>(std::min<std::uint64_t>(piece_bytes_, end_ - next_));
    Piece piece{std::move(buffer), {}};
    piece.data = input_->ReadStreaming(next_, length, piece.buffer.span());
    next_ += length;
    return piece;
  }
  bool all_read() const { return next_ == end_; }

  // What follows is for the thread that hashes; one at a time, in the order of the pieces.
  bool wants_sha256() const { return wanted_.sha256; }
  formats::Sha256& sha256() { return sha256_; }
  // All but the SHA-256.
  void HashRest(std::span<const std::byte> data) {
    if (git_) git_->Update(data);
    HashRanges(data);
    hashed_ += data.size();
  }
  bool all_hashed() const { return hashed_ == end_; }
  void Finish() {
    // Ranges without bytes at the end.
    HashRanges({});
    if (wanted_.sha256) result_.sha256 = sha256_.FinishHex();
    if (git_) result_.git_blob_sha1 = git_->FinishHex();
  }

  const std::string& name() const { return wanted_.name; }
  void Fail() {
    const std::uint64_t bytes = result_.bytes;
    result_ = FileDigest{};
    result_.bytes = bytes;
    result_.error = error;
  }

  // Guarded by the queue's mutex.
  std::deque<Piece> ready;
  bool reading = false;
  bool hashing = false;
  bool finished_reading = false;
  std::optional<Error> error;

 private:
  // `data` begins at hashed_.
  void HashRanges(std::span<const std::byte> data) {
    const std::uint64_t data_end = hashed_ + data.size();
    while (range_ < wanted_.ranges.size()) {
      const DigestRange& range = wanted_.ranges[range_];
      const std::uint64_t begin = std::max(range.begin, hashed_);
      const std::uint64_t end = std::min(range.end, data_end);
      if (begin < end) {
        xxh3_.Update(data.subspan(static_cast<std::size_t>(begin - hashed_),
                                  static_cast<std::size_t>(end - begin)));
      }
      if (range.end > data_end) return;
      result_.ranges.push_back(xxh3_.Hex());
      xxh3_.Reset();
      ++range_;
    }
  }

  const FileToDigest& wanted_;
  FileDigest& result_;
  std::size_t piece_bytes_;
  std::optional<formats::InputFile> input_;
  bool whole_ = true;
  std::uint64_t next_ = 0;  // where the next piece begins
  std::uint64_t end_ = 0;
  std::uint64_t hashed_ = 0;
  formats::Sha256 sha256_;
  std::optional<formats::GitBlobSha1> git_;
  formats::Xxh3 xxh3_;
  std::size_t range_ = 0;
};

// Gives each worker its next task: to hash pieces of several files side by side, or to read.
class DigestQueue {
 public:
  DigestQueue(const std::vector<FileToDigest>& files, std::vector<FileDigest>& results,
              unsigned threads, unsigned workers, ProgressSink& progress, const StopToken& stop)
      : files_(files),
        results_(results),
        threads_(threads),
        max_open_(kMaxLanes * threads + std::size_t{workers}),
        piece_bytes_(std::clamp(
            kMemoryBytes / (kPiecesPerFile * max_open_) / kMinPieceBytes * kMinPieceBytes,
            kMinPieceBytes, kMaxPieceBytes)),
        progress_(progress),
        stop_(stop),
        workers_(workers, threads, stop),
        order_(files.size()) {
    // Large files first: at the end, when files run out, the rest is small.
    std::vector<std::uint64_t> sizes;
    sizes.reserve(files.size());
    for (const FileToDigest& file : files) {
      std::error_code error;
      const std::uint64_t bytes = std::filesystem::file_size(file.path, error);
      sizes.push_back(error ? 0 : bytes);
    }
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(),
                     [&](std::size_t a, std::size_t b) { return sizes[a] > sizes[b]; });
  }

  void Run() {
    workers_.Run([this](unsigned) { Work(); });
  }

 private:
  using Lock = Workers::Lock;

  // Until all files are done. Every worker calls it.
  void Work() {
    Lock lock = workers_.Acquire();
    while (!Done()) {
      const std::vector<FileStream*> lanes = TakeLanes();
      if (!lanes.empty()) {
        Hash(lanes, lock);
      } else if (FileStream* stream = TakeToRead()) {
        Read(*stream, lock);
      } else {
        workers_.Wait(lock);
      }
    }
  }

  bool Done() const {
    if (workers_.failed()) return true;
    if (stop_.stopped()) throw Error(ErrorCode::kInterrupted, "interrupted; nothing was changed");
    return next_file_ == order_.size() && streams_.empty();
  }

  // Streams whose next pieces a thread hashes side by side; none when reading comes first.
  std::vector<FileStream*> TakeLanes() {
    std::vector<FileStream*> lanes;
    if (hashing_threads_ >= threads_) return lanes;
    const std::size_t live = streams_.size() + (order_.size() - next_file_);
    const std::size_t wanted =
        std::clamp<std::size_t>((live + threads_ - 1) / threads_, 1, kMaxLanes);
    for (const auto& stream : streams_) {
      if (stream->hashing || stream->ready.empty()) continue;
      lanes.push_back(stream.get());
      if (lanes.size() == wanted) break;
    }
    // Few streams side by side are slow, so a worker rather waits for streams that are being read.
    // When no buffer is left to read into and nothing is being read any more, it hashes the streams
    // that are ready.
    if (lanes.size() < wanted && (CanRead() || IsReading())) return {};
    for (FileStream* stream : lanes) stream->hashing = true;
    return lanes;
  }

  static bool CanReadMore(const FileStream& stream) {
    return !stream.reading && !stream.finished_reading && !stream.error &&
           stream.ready.size() + (stream.hashing ? 1 : 0) < kPiecesPerFile;
  }

  bool CanRead() const {
    return (next_file_ < order_.size() && streams_.size() < max_open_) ||
           std::any_of(streams_.begin(), streams_.end(),
                       [](const auto& stream) { return CanReadMore(*stream); });
  }

  bool IsReading() const {
    return std::any_of(streams_.begin(), streams_.end(),
                       [](const auto& stream) { return stream->reading; });
  }

  FileStream* TakeToRead() {
    // Files with no piece ready come first, so that as many files as possible advance together.
    FileStream* chosen = nullptr;
    for (const auto& stream : streams_) {
      if (!CanReadMore(*stream)) continue;
      if (chosen == nullptr || stream->ready.size() < chosen->ready.size()) chosen = stream.get();
    }
    if (chosen != nullptr && chosen->ready.empty() && !chosen->hashing) {
      chosen->reading = true;
      return chosen;
    }
    if (next_file_ < order_.size() && streams_.size() < max_open_) {
      const std::size_t file = order_[next_file_++];
      streams_.push_back(std::make_unique<FileStream>(files_[file], results_[file], piece_bytes_));
      chosen = streams_.back().get();
    }
    if (chosen != nullptr) chosen->reading = true;
    return chosen;
  }

  void Read(FileStream& stream, Lock& lock) {
    formats::AlignedBuffer buffer;
    if (!spare_.empty()) {
      buffer = std::move(spare_.back());
      spare_.pop_back();
    }
    lock.unlock();
    std::optional<Piece> piece;
    std::optional<Error> error;
    try {
      if (!stream.is_open()) stream.Open();
      if (!stream.all_read()) {
        if (buffer.size() == 0) {
          buffer = formats::AlignedBuffer(formats::InputFile::ScratchBytes(piece_bytes_));
        }
        piece = stream.Read(std::move(buffer));
      }
    } catch (const Error& caught) {
      error = caught;
    }
    const bool all_read = error || stream.all_read();
    if (piece) progress_.OnBytes(piece->data.size(), stream.name());
    lock.lock();
    stream.reading = false;
    stream.finished_reading = all_read;
    if (error) {
      stream.error = std::move(error);
      stream.ready.clear();
    } else if (piece) {
      stream.ready.push_back(std::move(*piece));
    }
    RemoveIfDone(stream);
    workers_.NotifyAll();
  }

  void Hash(const std::vector<FileStream*>& lanes, Lock& lock) {
    ++hashing_threads_;
    std::array<Piece, kMaxLanes> pieces;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      pieces[i] = std::move(lanes[i]->ready.front());
      lanes[i]->ready.pop_front();
    }
    lock.unlock();
    std::vector<formats::Sha256::Part> parts;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      if (lanes[i]->wants_sha256()) parts.push_back({&lanes[i]->sha256(), pieces[i].data});
    }
    formats::Sha256::UpdateMany(parts);
    for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i]->HashRest(pieces[i].data);
    lock.lock();
    --hashing_threads_;
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      spare_.push_back(std::move(pieces[i].buffer));
      lanes[i]->hashing = false;
      RemoveIfDone(*lanes[i]);
    }
    workers_.NotifyAll();
  }

  void RemoveIfDone(FileStream& stream) {
    if (stream.reading || stream.hashing || workers_.failed()) return;
    if (stream.error) {
      stream.Fail();
    } else if (stream.finished_reading && stream.ready.empty()) {
      stream.Finish();
    } else {
      return;
    }
    std::erase_if(streams_, [&](const auto& one) { return one.get() == &stream; });
  }

  const std::vector<FileToDigest>& files_;
  std::vector<FileDigest>& results_;
  const unsigned threads_;
  const std::size_t max_open_;
  const std::size_t piece_bytes_;
  ProgressSink& progress_;
  const StopToken& stop_;
  Workers workers_;  // their lock guards next_file_ and all below
  std::vector<std::size_t> order_;

  std::size_t next_file_ = 0;  // position in order_
  std::vector<std::unique_ptr<FileStream>> streams_;
  std::vector<formats::AlignedBuffer> spare_;
  unsigned hashing_threads_ = 0;
};

}  // namespace

std::vector<FileDigest> DigestFiles(const std::vector<FileToDigest>& files, unsigned threads,
                                    ProgressSink& progress, const StopToken& stop) {
  std::vector<FileDigest> results(files.size());
  const unsigned compute = ResolveThreads(threads);
  std::uint64_t bytes = 0;
  for (const FileToDigest& file : files) {
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(file.path, error);
    if (!error) bytes += size;
  }
  // A thread for less than this takes longer than it saves.
  const std::uint64_t useful = bytes / kMaxPieceBytes + files.size() / 256 + 1;
  const auto workers = static_cast<unsigned>(std::min<std::uint64_t>(compute + kReaders, useful));
  DigestQueue(files, results, std::min(compute, workers), workers, progress, stop).Run();
  return results;
}

}  // namespace dsv3::convert
