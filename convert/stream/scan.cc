#include "convert/stream/scan.h"

#include <algorithm>
#include <vector>

#include "convert/stream/executor.h"
#include "convert/stream/unit_pipeline.h"
#include "formats/io/aligned_buffer.h"

namespace dsv3::convert {
namespace {

// A unit of neighbours ends here, however small they are.
constexpr std::size_t kMaxUnitRanges = 256;

// Where pieces end by default: at whole elements. Elements of 4 and 6 bits end together every three
// bytes.
std::uint64_t CutAtElement(formats::Dtype dtype, std::uint64_t position) {
  const unsigned bits = formats::DtypeBits(dtype);
  return formats::AlignDown(position, bits % 8 == 0 ? bits / 8 : 3);
}

// The pieces of all tensors in the order of the disk, and which of them are read together.
struct Units {
  std::vector<SourceRange> ranges;
  std::vector<std::size_t> begins;  // of units, in `ranges`; the end of the last one closes it

  std::size_t count() const { return begins.size() - 1; }
  std::span<const SourceRange> RangesOf(std::size_t unit) const {
    return std::span(ranges).subspan(begins[unit], begins[unit + 1] - begins[unit]);
  }
};

class UnitPlanner {
 public:
  UnitPlanner(const Catalog& catalog, const ScanCut& cut, std::size_t unit_bytes)
      : catalog_(catalog), cut_(cut), unit_bytes_(unit_bytes) {}

  Units Plan(std::span<const std::uint32_t> tensors) {
    std::vector<std::uint32_t> order(tensors.begin(), tensors.end());
    std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      const Extent& x = catalog_.tensors()[a].extent;
      const Extent& y = catalog_.tensors()[b].extent;
      return std::pair(x.file, x.offset) < std::pair(y.file, y.offset);
    });
    for (const std::uint32_t tensor : order) AddPieces(tensor);
    units_.begins.push_back(units_.ranges.size());
    return std::move(units_);
  }

 private:
  void AddPieces(std::uint32_t tensor) {
    const std::uint64_t length = catalog_.tensors()[tensor].extent.length;
    for (std::uint64_t begin = 0; begin < length;) {
      const std::uint64_t end = NextCut(tensor, begin, length);
      Add({tensor, begin, end});
      begin = end;
    }
  }

  // The end of a piece that begins at `begin`.
  std::uint64_t NextCut(std::uint32_t tensor, std::uint64_t begin, std::uint64_t length) const {
    for (std::uint64_t size = unit_bytes_; size < length - begin; size *= 2) {
      const std::uint64_t cut = CutAtOrBefore(tensor, begin + size);
      if (cut > begin) return cut;
    }
    return length;
  }

  std::uint64_t CutAtOrBefore(std::uint32_t tensor, std::uint64_t position) const {
    return cut_ ? cut_(tensor, position) : CutAtElement(catalog_.tensors()[tensor].dtype, position);
  }

  void Add(const SourceRange& range) {
    const std::uint64_t bytes = range.end - range.begin;
    const std::uint32_t file = catalog_.tensors()[range.tensor].extent.file;
    const bool joins = !units_.begins.empty() && file == file_ &&
                       units_.ranges.size() - units_.begins.back() < kMaxUnitRanges &&
                       bytes_ + bytes <= unit_bytes_;
    if (!joins) {
      units_.begins.push_back(units_.ranges.size());
      bytes_ = 0;
      file_ = file;
    }
    units_.ranges.push_back(range);
    bytes_ += bytes;
  }

  const Catalog& catalog_;
  const ScanCut& cut_;
  const std::uint64_t unit_bytes_;
  Units units_;
  std::uint64_t bytes_ = 0;  // of the last unit
  std::uint32_t file_ = 0;   // of the last unit
};

// The buffers of one worker.
struct Scratch {
  formats::AlignedBuffer buffer;
  std::vector<SourceRange> reads;    // the unit's ranges, then their side ranges
  std::vector<std::size_t> side_of;  // where they begin in `reads`; the end of the last closes it
  std::vector<std::span<const std::byte>> inputs;
};

}  // namespace

void ScanTensors(const Catalog& catalog, std::span<const std::uint32_t> tensors,
                 SourceFiles& sources, const ScanOptions& options, const ScanCut& cut,
                 const std::function<void(const ScanPiece&)>& visit, ProgressSink& progress,
                 const StopToken& stop) {
  const std::uint64_t memory =
      options.memory_bytes != 0 ? options.memory_bytes : kDefaultMemoryBytes;
  const UnitResources resources = PlanUnitPipeline(options.threads, memory, 1);
  const Units units = UnitPlanner(catalog, cut, resources.unit_bytes).Plan(tensors);
  std::uint64_t total_bytes = 0;
  for (const std::uint32_t tensor : tensors) total_bytes += catalog.tensors()[tensor].extent.length;
  progress.OnPhase(options.phase, total_bytes);

  std::vector<Scratch> scratches(resources.workers);
  const auto read = [&](std::size_t unit, unsigned worker) {
    Scratch& scratch = scratches[worker];
    const std::span<const SourceRange> ranges = units.RangesOf(unit);
    scratch.reads.assign(ranges.begin(), ranges.end());
    scratch.side_of.assign(1, scratch.reads.size());
    for (const SourceRange& range : ranges) {
      if (options.side) options.side(range.tensor, range.begin, range.end, scratch.reads);
      scratch.side_of.push_back(scratch.reads.size());
    }
    sources.Read(scratch.reads, scratch.buffer, scratch.inputs);
  };
  const auto compute = [&](std::size_t unit, unsigned worker) {
    const Scratch& scratch = scratches[worker];
    const std::span<const SourceRange> ranges = units.RangesOf(unit);
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const std::size_t side = scratch.side_of[i];
      const ScanPiece piece{ranges[i].tensor, ranges[i].begin, scratch.inputs[i],
                            std::span(scratch.inputs).subspan(side, scratch.side_of[i + 1] - side)};
      visit(piece);
      bytes += piece.bytes.size();
    }
    const std::uint32_t file = catalog.tensors()[ranges[0].tensor].extent.file;
    progress.OnBytes(bytes, catalog.files()[file].name);
  };
  // The pieces of a tensor are neighbours, so only a unit's first can have one in the unit before.
  UnitFollows follows;
  if (options.in_order)
    follows = [&](std::size_t unit) { return units.RangesOf(unit)[0].begin > 0; };
  RunUnitPipeline(units.count(), resources.workers, options.threads, read, compute, stop, follows);
}

}  // namespace dsv3::convert
