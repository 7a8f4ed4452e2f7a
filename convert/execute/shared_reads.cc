#include "convert/execute/shared_reads.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include "convert/execute/appended_file.h"
#include "convert/execute/compute_slot.h"
#include "convert/execute/read_order.h"
#include "formats/error.h"
#include "formats/io/open_files.h"

namespace dsv3::convert {
namespace {

// Threads beyond the compute threads: they wait for the disk, so that it always has requests.
constexpr unsigned kIoThreads = 6;
// Files whose bytes one thread digests side by side; more do not fit the registers.
constexpr std::size_t kDigestTogether = 4;
constexpr std::uint64_t kMaxPanelBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kMinPanelBytes = std::uint64_t{256} << 10;
constexpr std::uint64_t kMaxAppendBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kMinAppendBytes = std::uint64_t{256} << 10;
// So many panels should find room: fewer would leave threads without work.
constexpr std::uint64_t kEnoughPanels = 12;
// Small tensors that are read as one panel.
constexpr std::size_t kMaxPieces = 64;

// Bytes of a box of rows that a panel holds for its files.
struct PanelCut {
  std::size_t piece = 0;
  Box box;  // rows of the origin, within the piece
  std::span<const std::byte> bytes;
};

// Rows of one origin within a panel.
struct PanelPiece {
  const SharedRead* read = nullptr;
  std::uint64_t begin = 0;  // bytes of the origin's value
  std::uint64_t end = 0;
  std::size_t first_input = 0;
  std::size_t num_inputs = 0;
  std::span<const std::byte> value;
};

// A piece of work: rows of one origin, or several small origins.
struct Panel {
  std::uint64_t number = 0;  // in the order of issue
  std::vector<PanelPiece> pieces;
  std::vector<PanelCut> cuts;
  bool ready = false;       // cuts hold their bytes
  std::size_t pending = 0;  // segments of lanes that are not yet taken
  std::vector<SourceRange> reads;
  std::vector<std::span<const std::byte>> inputs;
  formats::AlignedBuffer input_buffer;
  formats::AlignedBuffer value_buffer;
  formats::AlignedBuffer gather_buffer;
};

// What a file takes next: bytes [begin, end) of a cut of a panel, of its header, or zeros.
struct Segment {
  enum class Kind { kCut, kHeader, kZeros };
  Kind kind = Kind::kCut;
  Panel* panel = nullptr;
  std::size_t cut = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  bool last = false;  // of its cut in this file
};

// A file that advances.
struct Lane {
  explicit Lane(AppendedFile appended) : file(std::move(appended)) {}

  AppendedFile file;
  std::string header;            // while it is being appended
  std::deque<Segment> segments;  // to come
  std::vector<Segment> taken;    // by the thread that is at it
  bool busy = false;             // a thread is at it
  bool ended = false;            // committed

  bool CanAdvance() const {
    return !busy && !segments.empty() &&
           (segments.front().panel == nullptr || segments.front().panel->ready);
  }
  std::uint64_t FrontNumber() const {
    return segments.front().panel == nullptr ? 0 : segments.front().panel->number;
  }

  // Moves what is ready and finds room from `segments` to `taken`.
  void Take() {
    taken.clear();
    std::uint64_t room = file.room();
    while (room > 0 && CanAdvance()) {
      Segment& front = segments.front();
      Segment& part = taken.emplace_back(front);
      part.end = std::min(front.end, front.begin + room);
      part.last = part.end == front.end;
      room -= part.end - part.begin;
      front.begin = part.end;
      if (part.last) segments.pop_front();
    }
    busy = true;
  }

  // Gives the file what was taken.
  void Stage() {
    for (const Segment& segment : taken) {
      const auto begin = static_cast<std::size_t>(segment.begin);
      const auto bytes = static_cast<std::size_t>(segment.end - segment.begin);
      switch (segment.kind) {
        case Segment::Kind::kHeader:
          if (begin == 0) header = FileHeader(file.file());
          file.Stage(std::as_bytes(std::span(header)).subspan(begin, bytes));
          if (segment.last) header = std::string();
          break;
        case Segment::Kind::kZeros:
          file.StageZeros(bytes);
          break;
        case Segment::Kind::kCut:
          file.Stage(segment.panel->cuts[segment.cut].bytes.subspan(begin, bytes));
          break;
      }
    }
  }
};

// Memory of a panel for each byte of an origin's value.
struct PanelShare {
  std::uint64_t input = 1;
  std::uint64_t value = 0;
  std::uint64_t gathered = 0;
  std::uint64_t sum() const { return input + value + gathered; }
};

bool IsCopy(const Expression& origin) { return origin.rule() == "copy"; }

PanelShare ShareOf(const SharedRead& read) {
  return {read.origin->input_bytes_per_output_byte(), IsCopy(*read.origin) ? 0U : 1U,
          read.GatheredPerByte()};
}

// The end of the piece of an origin that begins at `begin`: about `bytes` long, at most to `end`.
std::uint64_t PieceEnd(const SharedRead& read, std::uint64_t begin, std::uint64_t end,
                       std::uint64_t bytes) {
  if (end - begin <= bytes) return end;
  const bool whole_rows = read.CutsRows();
  std::uint64_t cut = begin + bytes;
  for (;;) {
    cut = read.origin->CutAtOrBefore(cut);
    if (!whole_rows || cut % read.row_bytes == 0) break;
    cut = cut / read.row_bytes * read.row_bytes;
    if (read.origin->CutAtOrBefore(cut) == cut) break;
  }
  if (cut > begin) return std::min(cut, end);
  // One piece that cannot be cut, or a row, is longer than that.
  for (cut = begin; cut == begin || (whole_rows && cut % read.row_bytes != 0 && cut < end);) {
    cut = read.origin->CutAfter(cut);
  }
  return std::min(cut, end);
}

// Where a piece that holds `position` may begin.
std::uint64_t PieceBegin(const SharedRead& read, std::uint64_t position) {
  std::uint64_t begin = read.origin->CutAtOrBefore(position);
  while (begin % read.row_bytes != 0 && read.CutsRows()) {
    begin = read.origin->CutAtOrBefore(begin / read.row_bytes * read.row_bytes);
  }
  return begin;
}

std::size_t Size(std::uint64_t bytes) { return static_cast<std::size_t>(bytes); }

void Reserve(formats::AlignedBuffer& buffer, std::uint64_t bytes) {
  if (buffer.size() >= bytes) return;
  buffer = formats::AlignedBuffer();
  buffer = formats::AlignedBuffer(Size(bytes));
}

// The pipeline. Panels are issued in one order that is every file's own; whoever has read and made
// one marks it ready, and whoever has time appends what is ready to its files. The oldest panel is
// next in all files that wait for it, so some thread can always go on.
class SharedReader {
 public:
  SharedReader(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
               const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
               const StopToken& stop)
      : plan_(plan),
        groups_(OrderReads(plan, files)),
        sources_(sources),
        options_(options),
        sink_(sink),
        progress_(progress),
        stop_(stop),
        resources_(PlanSharedReads(options, plan, files)),
        panels_(resources_.panels),
        compute_(static_cast<std::ptrdiff_t>(options.threads)) {
    for (Panel& panel : panels_) free_.push_back(&panel);
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
    if (!Done()) ThrowInterrupted();
  }

 private:
  void Work() noexcept {
    try {
      std::vector<Lane*> lanes;
      while (Panel* panel = Next(lanes)) {
        Make(*panel);
        const std::lock_guard lock(mutex_);
        panel->ready = true;
        if (panel->pending == 0) free_.push_back(panel);
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

  bool Ended() const { return error_ != nullptr || stop_.stopped(); }
  bool AllIssued() const { return group_ == groups_.size(); }
  bool Done() const {
    return AllIssued() &&
           std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->ended; });
  }

  // The next panel to make, or nullptr when there is none left (or the job has ended). Appends to
  // files while several of them are ready, or when there is nothing else to do.
  Panel* Next(std::vector<Lane*>& lanes) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (Ended() || Done()) return nullptr;
      const bool can_issue = !free_.empty() && !AllIssued();
      PickLanes(lanes);
      if (!lanes.empty() && (!can_issue || lanes.size() == kDigestTogether)) {
        for (Lane* const lane : lanes) lane->Take();
        lock.unlock();
        Advance(lanes);
        lock.lock();
        continue;
      }
      if (can_issue) {
        if (Panel* const panel = Issue()) return panel;
        continue;
      }
      changed_.wait(lock);
    }
  }

  // Up to kDigestTogether files that can go on, those that hold the oldest panels first.
  void PickLanes(std::vector<Lane*>& lanes) const {
    lanes.clear();
    const auto older = [](const Lane* a, const Lane* b) {
      return a->FrontNumber() < b->FrontNumber();
    };
    for (const auto& lane : lanes_) {
      if (!lane->CanAdvance()) continue;
      lanes.insert(std::upper_bound(lanes.begin(), lanes.end(), lane.get(), older), lane.get());
      if (lanes.size() > kDigestTogether) lanes.pop_back();
    }
  }

  // Fills a free panel with what comes next and tells the files; nullptr where nothing was to read.
  Panel* Issue() {
    if (next_read_ == 0 && next_byte_ == 0 && !group_begun_) BeginGroup();
    ReadGroup& group = groups_[group_];
    Panel& panel = *free_.back();
    panel.number = ++issued_;
    panel.pieces.clear();
    panel.cuts.clear();
    panel.reads.clear();
    panel.ready = false;
    panel.pending = 0;
    std::uint64_t bytes = 0;
    while (next_read_ < group.reads.size() && panel.pieces.size() < kMaxPieces) {
      const SharedRead& read = group.reads[next_read_];
      const std::uint64_t share = ShareOf(read).sum();
      if (!FindNextByte(read)) {
        EndRead(read);
        continue;
      }
      const std::uint64_t end =
          PieceEnd(read, next_byte_, needed_end_, resources_.panel_bytes / share);
      const std::uint64_t takes = (end - next_byte_) * share;
      if (!panel.pieces.empty() && bytes + takes > resources_.panel_bytes) break;
      bytes += takes;
      AddPiece(read, next_byte_, end, panel);
      next_byte_ = end;
    }
    if (next_read_ == group.reads.size()) EndGroup();
    if (panel.pieces.empty()) return nullptr;
    free_.pop_back();
    return &panel;
  }

  void BeginGroup() {
    group_begun_ = true;
    first_lane_ = lanes_.size();
    // Committed lanes are not looked at again.
    std::erase_if(lanes_, [](const auto& lane) { return lane->ended; });
    first_lane_ = lanes_.size();
    for (const std::size_t file : groups_[group_].files) {
      Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>(AppendedFile(
          plan_, file, Size(resources_.append_bytes), options_.sha256, options_.tensor_sha256)));
      lane.segments.push_back(
          {Segment::Kind::kHeader, nullptr, 0, 0, plan_.files[file].data_offset});
    }
    changed_.notify_all();
  }

  void EndGroup() {
    groups_[group_].files.clear();
    ++group_;
    next_read_ = 0;
    group_begun_ = false;
  }

  // Moves next_byte_ to where the next piece of the read begins and sets needed_end_; false when
  // nothing more of it is needed.
  bool FindNextByte(const SharedRead& read) {
    if (!needed_known_) {
      needed_ = read.NeededRows();
      if (!plan_.source_digests.empty()) needed_ = {{0, read.matrix.rows}};
      needed_known_ = true;
      next_byte_ = 0;
    }
    for (const RowRange& rows : needed_) {
      needed_end_ = rows.end * read.row_bytes;
      if (next_byte_ >= needed_end_) continue;
      if (next_byte_ < rows.begin * read.row_bytes) {
        next_byte_ = std::max(next_byte_, PieceBegin(read, rows.begin * read.row_bytes));
      }
      needed_end_ = NeededEnd(read, needed_end_);
      return next_byte_ < needed_end_;
    }
    return false;
  }

  // A piece must end where the origin may be cut.
  static std::uint64_t NeededEnd(const SharedRead& read, std::uint64_t end) {
    if (end >= read.origin->num_bytes()) return read.origin->num_bytes();
    std::uint64_t cut = read.origin->CutAtOrBefore(end);
    while (cut < end || (read.CutsRows() && cut % read.row_bytes != 0)) {
      cut = read.origin->CutAfter(cut);
    }
    return cut;
  }

  void EndRead(const SharedRead& read) {
    for (const SharedZeros& zeros : read.zeros) {
      lanes_[first_lane_ + zeros.lane]->segments.push_back(
          {Segment::Kind::kZeros, nullptr, 0, 0, zeros.bytes});
    }
    ++next_read_;
    next_byte_ = 0;
    needed_known_ = false;
    changed_.notify_all();
  }

  void AddPiece(const SharedRead& read, std::uint64_t begin, std::uint64_t end, Panel& panel) {
    PanelPiece& piece = panel.pieces.emplace_back();
    piece.read = &read;
    piece.begin = begin;
    piece.end = end;
    piece.first_input = panel.reads.size();
    read.origin->AppendReads(begin, end, panel.reads);
    piece.num_inputs = panel.reads.size() - piece.first_input;
    for (const SharedCut& cut : read.cuts) {
      const std::uint64_t bytes = CutBytes(read, cut.box, begin, end);
      if (bytes == 0) continue;
      panel.cuts.push_back({panel.pieces.size() - 1, cut.box, {}});
      for (const std::uint32_t lane : cut.lanes) {
        lanes_[first_lane_ + lane]->segments.push_back(
            {Segment::Kind::kCut, &panel, panel.cuts.size() - 1, 0, bytes});
        ++panel.pending;
      }
    }
  }

  // How many bytes of a box lie in bytes [begin, end) of the origin. Pieces that part rows hold
  // boxes of whole rows alone.
  static std::uint64_t CutBytes(const SharedRead& read, const Box& box, std::uint64_t begin,
                                std::uint64_t end) {
    if (box.empty()) return 0;
    const std::uint64_t first = std::max(begin, box.row_begin * read.row_bytes);
    const std::uint64_t last = std::min(end, box.row_end * read.row_bytes);
    if (first >= last) return 0;
    if (box.cols() == read.matrix.cols) return last - first;
    return (last - first) / read.matrix.cols * box.cols();
  }

  // Reads and makes a panel, and gathers the boxes that take parts of rows.
  void Make(Panel& panel) {
    sources_.Read(panel.reads, panel.input_buffer, panel.inputs);
    std::uint64_t value_bytes = 0;
    std::uint64_t gathered = 0;
    for (const PanelPiece& piece : panel.pieces) {
      if (!IsCopy(*piece.read->origin))
        value_bytes += formats::AlignUp(piece.end - piece.begin, 64);
    }
    for (const PanelCut& cut : panel.cuts) {
      const PanelPiece& piece = panel.pieces[cut.piece];
      if (cut.box.cols() != piece.read->matrix.cols) {
        gathered += CutBytes(*piece.read, cut.box, piece.begin, piece.end);
      }
    }
    Reserve(panel.value_buffer, value_bytes);
    Reserve(panel.gather_buffer, gathered);

    const ComputeSlot slot(compute_);
    std::size_t value_at = 0;
    for (PanelPiece& piece : panel.pieces) {
      const auto inputs = std::span(panel.inputs).subspan(piece.first_input, piece.num_inputs);
      if (IsCopy(*piece.read->origin)) {
        piece.value = inputs[0];
        continue;
      }
      EvaluationOutput out;
      out.value = panel.value_buffer.span().subspan(value_at, Size(piece.end - piece.begin));
      piece.read->origin->Evaluate(piece.begin, piece.end, inputs, out);
      piece.value = out.value;
      value_at += Size(formats::AlignUp(piece.end - piece.begin, 64));
    }
    std::size_t gather_at = 0;
    for (PanelCut& cut : panel.cuts) cut.bytes = CutOut(panel, cut, gather_at);
  }

  static std::span<const std::byte> CutOut(Panel& panel, const PanelCut& cut,
                                           std::size_t& gather_at) {
    const PanelPiece& piece = panel.pieces[cut.piece];
    const SharedRead& read = *piece.read;
    const std::uint64_t first = std::max(piece.begin, cut.box.row_begin * read.row_bytes);
    const std::uint64_t last = std::min(piece.end, cut.box.row_end * read.row_bytes);
    const auto rows = piece.value.subspan(Size(first - piece.begin), Size(last - first));
    if (cut.box.cols() == read.matrix.cols) return rows;
    const std::uint64_t element = read.row_bytes / read.matrix.cols;
    const std::size_t width = Size(cut.box.cols() * element);
    const std::size_t begin = gather_at;
    const std::byte* from = rows.data() + cut.box.col_begin * element;
    for (std::uint64_t row = first; row < last; row += read.row_bytes) {
      std::memcpy(panel.gather_buffer.data() + gather_at, from, width);
      from += read.row_bytes;
      gather_at += width;
    }
    return panel.gather_buffer.span().subspan(begin, gather_at - begin);
  }

  // Lets files take what is ready, digests it side by side and writes full buffers.
  void Advance(std::span<Lane* const> lanes) {
    std::vector<AppendedFile*> files;
    {
      const ComputeSlot slot(compute_);
      for (Lane* const lane : lanes) {
        lane->Stage();
        files.push_back(&lane->file);
      }
      AppendedFile::DigestSeveral(files);
    }
    {
      const std::lock_guard lock(mutex_);
      for (const Lane* const lane : lanes) {
        for (const Segment& segment : lane->taken) {
          if (segment.panel != nullptr && segment.last) Release(*segment.panel);
        }
      }
      if (stop_.stopped()) return;
    }
    changed_.notify_all();
    for (Lane* const lane : lanes) {
      progress_.OnBytes(lane->file.Flush(sink_), lane->file.file().name);
      const bool complete = lane->file.complete();
      if (complete) {
        lane->file.Commit(sink_);
      } else if (resources_.close_after_write) {
        lane->file.Close();
      }
      const std::lock_guard lock(mutex_);
      lane->busy = false;
      lane->ended = complete;
      changed_.notify_all();
    }
  }

  void Release(Panel& panel) {
    if (--panel.pending == 0) free_.push_back(&panel);
  }

  const Plan& plan_;
  std::vector<ReadGroup> groups_;
  SourceFiles& sources_;
  const ExecutorOptions& options_;
  OutputSink& sink_;
  ProgressSink& progress_;
  const StopToken& stop_;
  const SharedReadResources resources_;

  std::mutex mutex_;  // guards what follows, except what the thread holds that made a lane busy
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Panel> panels_;
  std::vector<Panel*> free_;
  std::exception_ptr error_;
  // Where issuing has come to.
  std::size_t group_ = 0;
  bool group_begun_ = false;
  std::size_t first_lane_ = 0;  // of the group, in lanes_
  std::size_t next_read_ = 0;
  std::uint64_t next_byte_ = 0;
  std::uint64_t needed_end_ = 0;
  std::vector<RowRange> needed_;
  bool needed_known_ = false;
  std::uint64_t issued_ = 0;

  std::counting_semaphore<> compute_;
};

}  // namespace

SharedReadResources PlanSharedReads(const ExecutorOptions& options, const Plan& plan,
                                    std::span<const std::size_t> files) {
  std::map<std::uint32_t, std::uint64_t> group_files;
  for (const std::size_t file : files) ++group_files[plan.files[file].group];
  // The last files of a group are completed while the next group begins.
  std::uint64_t open = 0;
  std::uint64_t before = 0;
  for (const auto& [group, count] : group_files) {
    open = std::max(open, before + count);
    before = count;
  }
  SharedReadResources resources;
  resources.workers = options.threads + kIoThreads;
  resources.append_bytes =
      std::clamp(formats::AlignDown(options.memory_bytes / 4 / std::max<std::uint64_t>(1, open),
                                    kMinAppendBytes),
                 kMinAppendBytes, kMaxAppendBytes);
  const std::uint64_t buffers = open * resources.append_bytes;
  const std::uint64_t left = options.memory_bytes - std::min(options.memory_bytes, buffers);
  resources.panel_bytes = kMaxPanelBytes;
  while (resources.panel_bytes > kMinPanelBytes && resources.panel_bytes * kEnoughPanels > left) {
    resources.panel_bytes /= 2;
  }
  resources.panels = Size(std::clamp<std::uint64_t>(left / resources.panel_bytes, kEnoughPanels,
                                                    std::uint64_t{4} * resources.workers));
  // Each by up to two descriptors.
  resources.close_after_write =
      open > (options.max_open_files != 0 ? options.max_open_files : formats::OpenFileBudget() / 4);
  resources.memory_bytes = buffers + resources.panels * resources.panel_bytes;
  return resources;
}

void ExecuteSharedReads(const Plan& plan, std::span<const std::size_t> files, SourceFiles& sources,
                        const ExecutorOptions& options, OutputSink& sink, ProgressSink& progress,
                        const StopToken& stop) {
  if (files.empty()) return;
  SharedReader(plan, files, sources, options, sink, progress, stop).Run();
}

}  // namespace dsv3::convert
