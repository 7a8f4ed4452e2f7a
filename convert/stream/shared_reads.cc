#include "convert/stream/shared_reads.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/stream/read_order.h"
#include "convert/stream/shared_lane.h"
#include "convert/stream/shared_panel.h"
#include "convert/stream/slots.h"
#include "convert/stream/source_checks.h"
#include "convert/stream/workers.h"
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

std::size_t Size(std::uint64_t bytes) { return static_cast<std::size_t>(bytes); }

// The pipeline. Panels are issued in one order, which agrees with the order of every file. The
// worker that has read and made a panel marks it ready; a worker that is free appends ready panels
// to their files. The oldest panel is next in all files that wait for it, so some worker can always
// continue.
class SharedReader {
  using Panel = SharedPanel;

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
        resources_(PlanSharedReads(options, plan, files)),
        workers_(resources_.workers, options.threads, stop),
        panels_(resources_.panels) {}

  void Run() {
    workers_.Run([this](unsigned) { Work(); });
    if (!Done()) ThrowInterrupted();
  }

 private:
  void Work() {
    std::vector<SharedLane*> lanes;
    while (Panel* panel = Next(lanes)) {
      panel->Make(sources_, workers_);
      const Workers::Lock lock = workers_.Acquire();
      panel->ready = true;
      if (panel->pending == 0) panels_.Free(*panel);
      workers_.NotifyAll();
    }
  }

  bool AllIssued() const { return group_ == groups_.size(); }
  bool Done() const {
    return AllIssued() &&
           std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->ended; });
  }

  // The next panel to make, or nullptr when there is none left (or the job has ended). Appends to
  // files while several of them are ready, or when there is nothing else to do.
  Panel* Next(std::vector<SharedLane*>& lanes) {
    Workers::Lock lock = workers_.Acquire();
    for (;;) {
      if (workers_.ended() || Done()) return nullptr;
      if (CanCheck()) {
        Check(lock);
        continue;
      }
      const bool can_issue = panels_.any_free() && !AllIssued();
      PickLanes(lanes);
      if (!lanes.empty() && (!can_issue || lanes.size() == kDigestTogether)) {
        for (SharedLane* const lane : lanes) lane->Take();
        lock.unlock();
        Advance(lanes);
        lock.lock();
        continue;
      }
      if (can_issue) {
        if (Panel* const panel = Issue()) return panel;
        continue;
      }
      workers_.Wait(lock);
    }
  }

  // Up to kDigestTogether files that can go on, those that hold the oldest panels first.
  void PickLanes(std::vector<SharedLane*>& lanes) const {
    lanes.clear();
    const auto older = [](const SharedLane* a, const SharedLane* b) {
      return a->FrontNumber() < b->FrontNumber();
    };
    for (const auto& lane : lanes_) {
      if (!lane->CanAdvance()) continue;
      lanes.insert(std::upper_bound(lanes.begin(), lanes.end(), lane.get(), older), lane.get());
      if (lanes.size() > kDigestTogether) lanes.pop_back();
    }
  }

  // Fills a free panel with the pieces that come next and queues it in their files; nullptr where
  // there was nothing to read.
  Panel* Issue() {
    if (!cursor_) BeginGroup();
    Panel& panel = panels_.Take();
    panel.Clear();
    panel.number = ++issued_;
    std::uint64_t bytes = 0;
    while (!cursor_->AtEnd() && panel.pieces.size() < kMaxPieces) {
      if (!cursor_->FindPiece()) {
        EndRead();
        continue;
      }
      const std::uint64_t share = PanelBytesPerByte(cursor_->read());
      const std::uint64_t end = cursor_->End(resources_.panel_bytes / share);
      bytes += (end - cursor_->begin()) * share;
      if (!panel.pieces.empty() && bytes > resources_.panel_bytes) break;
      AddPiece(end, panel);
      cursor_->MoveTo(end);
    }
    if (cursor_->AtEnd()) {
      cursor_.reset();
      ++group_;
    }
    if (panel.pieces.empty()) {
      panels_.Free(panel);
      return nullptr;
    }
    if (!plan_.source_digests.empty()) {
      to_check_.push_back(&panel);
      ++panel.pending;
    }
    return &panel;
  }

  void BeginGroup() {
    cursor_.emplace(groups_[group_], !plan_.source_digests.empty());
    // Files of groups before that are done are not looked at again.
    std::erase_if(lanes_, [](const auto& lane) { return lane->ended; });
    first_lane_ = lanes_.size();
    for (const std::size_t file : groups_[group_].files) {
      lanes_.push_back(std::make_unique<SharedLane>(AppendedFile(
          plan_, file, Size(resources_.append_bytes), options_.sha256, options_.tensor_sha256)));
      lanes_.back()->segments.push_back(
          {Segment::Kind::kHeader, nullptr, 0, 0, plan_.files[file].data_offset});
    }
    workers_.NotifyAll();
  }

  void EndRead() {
    for (const SharedZeros& zeros : cursor_->read().zeros) {
      LaneOf(zeros.lane).segments.push_back({Segment::Kind::kZeros, nullptr, 0, 0, zeros.bytes});
    }
    cursor_->EndRead();
    workers_.NotifyAll();
  }

  void AddPiece(std::uint64_t end, Panel& panel) {
    const SharedRead& read = cursor_->read();
    const PanelPiece& piece = panel.Add(read, cursor_->begin(), end);
    for (const SharedCut& cut : read.cuts) {
      const std::uint64_t bytes = piece.BytesIn(cut.box);
      if (bytes == 0) continue;
      panel.cuts.push_back({panel.pieces.size() - 1, cut.box, {}});
      for (const std::uint32_t lane : cut.lanes) {
        LaneOf(lane).segments.push_back(
            {Segment::Kind::kCut, &panel, panel.cuts.size() - 1, 0, bytes});
      }
      panel.pending += cut.lanes.size();
    }
  }

  SharedLane& LaneOf(std::uint32_t lane) { return *lanes_[first_lane_ + lane]; }

  // Gives the files the panels that are ready, digests them side by side and writes full buffers.
  void Advance(std::span<SharedLane* const> lanes) {
    std::vector<AppendedFile*> files;
    {
      const ComputeSlot slot = workers_.Compute();
      for (SharedLane* const lane : lanes) {
        lane->Stage();
        files.push_back(&lane->file);
      }
      AppendedFile::DigestSeveral(files);
    }
    {
      const Workers::Lock lock = workers_.Acquire();
      for (const SharedLane* const lane : lanes) {
        for (const Segment& segment : lane->taken) {
          if (segment.panel != nullptr && segment.last) Release(*segment.panel);
        }
      }
      if (workers_.ended()) return;
    }
    workers_.NotifyAll();
    for (SharedLane* const lane : lanes) {
      progress_.OnBytes(lane->file.Flush(sink_), lane->file.file().name);
      const bool complete = lane->file.complete();
      if (complete) {
        lane->file.Commit(sink_);
      } else if (resources_.close_after_write) {
        lane->file.Close();
      }
      const Workers::Lock lock = workers_.Acquire();
      lane->busy = false;
      lane->ended = complete;
      workers_.NotifyAll();
    }
  }

  bool CanCheck() const { return !checking_ && !to_check_.empty() && to_check_.front()->ready; }

  // Gives the oldest panel's source bytes to the checks, which take them in order.
  void Check(Workers::Lock& lock) {
    Panel& panel = *to_check_.front();
    to_check_.pop_front();
    checking_ = true;
    lock.unlock();
    {
      const ComputeSlot slot = workers_.Compute();
      for (const PanelPiece& piece : panel.pieces) {
        for (std::size_t i = piece.first_input; i < piece.first_input + piece.num_inputs; ++i) {
          options_.checks->Add(panel.reads[i].tensor, panel.reads[i].begin, panel.inputs[i]);
        }
        if (piece.ends_origin) options_.checks->FinishSources(*piece.read->origin);
      }
    }
    lock.lock();
    checking_ = false;
    Release(panel);
    workers_.NotifyAll();
  }

  void Release(Panel& panel) {
    if (--panel.pending == 0) panels_.Free(panel);
  }

  const Plan& plan_;
  std::vector<ReadGroup> groups_;
  SourceFiles& sources_;
  const ExecutorOptions& options_;
  OutputSink& sink_;
  ProgressSink& progress_;
  const SharedReadResources resources_;

  // Their lock guards all below, except the members of a busy lane that its thread owns.
  Workers workers_;
  std::vector<std::unique_ptr<SharedLane>> lanes_;
  Slots<Panel> panels_;
  std::deque<Panel*> to_check_;
  bool checking_ = false;
  // The place up to which panels were issued.
  std::size_t group_ = 0;
  std::size_t first_lane_ = 0;  // of the group, in lanes_
  std::optional<ReadCursor> cursor_;
  std::uint64_t issued_ = 0;
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
  RequireChecks(plan, options);
  SharedReader(plan, files, sources, options, sink, progress, stop).Run();
}

}  // namespace dsv3::convert
