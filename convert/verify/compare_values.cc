#include "convert/verify/compare_values.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <span>
#include <utility>

#include "convert/plan/row_tensors.h"
#include "convert/plan/scale_values.h"
#include "convert/stream/executor.h"
#include "convert/stream/unit_pipeline.h"
#include "convert/stream/value_reader.h"
#include "convert/verify/numeric_measure.h"
#include "formats/io/aligned_buffer.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// What one panel adds to its tensor.
struct PanelDifference {
  std::uint64_t begin = 0;  // element
  bool same_bytes = true;
  DifferenceStatistics statistics;  // without rmse and relative
  long double squared_error = 0;
  long double squares = 0;  // of b
};

// One tensor of both.
struct Job {
  std::size_t pair = 0;
  ValueReader a;
  ValueReader b;
  bool same_form = false;  // dtype, and the form of the scale
  bool round_a = false;    // to BF16
  bool round_b = false;
  std::vector<PanelDifference> panels;  // guarded
  std::uint64_t elements_left = 0;      // guarded
};

// Elements [begin, end) of a job, both sides.
struct Unit {
  std::uint32_t job = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Scratch {
  formats::AlignedBuffer buffer;
  std::vector<SourceRange> reads;
  std::vector<std::span<const std::byte>> inputs;  // a, b, then their scales
};

bool SameScaleForm(const Catalog& catalog, const TensorPair& pair) {
  if (pair.scale_a == nullptr || pair.scale_b == nullptr) return pair.scale_a == pair.scale_b;
  return pair.scale_a->block == pair.scale_b->block &&
         pair.scale_a->format == pair.scale_b->format &&
         pair.scale_a->scale_format == pair.scale_b->scale_format &&
         pair.scale_a->tensor_scale_use == pair.scale_b->tensor_scale_use &&
         pair.scale_a->zero_format == pair.scale_b->zero_format &&
         IsByColumns(catalog, *pair.scale_a) == IsByColumns(catalog, *pair.scale_b) &&
         catalog.tensors()[pair.scale_a->scale].dtype ==
             catalog.tensors()[pair.scale_b->scale].dtype;
}

bool IsWideInteger(Dtype dtype) { return dtype == Dtype::kI64 || dtype == Dtype::kU64; }

class Comparer {
 public:
  Comparer(const TwoCheckpoints& both, const std::vector<TensorPair>& pairs,
           const CompareRequest& request, std::size_t unit_bytes)
      : catalog_(both.catalog), pairs_(pairs), request_(request), results_(pairs.size()) {
    for (std::size_t i = 0; i < pairs.size(); ++i) AddJob(i);
    // In the order of A's files, so that at least one side is read as it lies.
    std::sort(jobs_.begin(), jobs_.end(),
              [&](const Job& x, const Job& y) { return pairs_[x.pair].a < pairs_[y.pair].a; });
    for (std::uint32_t j = 0; j < jobs_.size(); ++j) AddUnits(j, unit_bytes);
  }

  const std::vector<Unit>& units() const { return units_; }
  std::uint64_t total_bytes() const { return total_bytes_; }

  void AppendReads(const Unit& unit, std::vector<SourceRange>& reads) const {
    const Job& job = jobs_[unit.job];
    const TensorPair& pair = pairs_[job.pair];
    reads.push_back({pair.a, job.a.BytesTo(unit.begin), job.a.BytesTo(unit.end)});
    reads.push_back({pair.b, job.b.BytesTo(unit.begin), job.b.BytesTo(unit.end)});
    job.a.AppendScaleReads(unit.begin, unit.end, reads);
    job.b.AppendScaleReads(unit.begin, unit.end, reads);
  }

  void Compare(const Unit& unit, std::span<const std::span<const std::byte>> inputs) {
    Job& job = jobs_[unit.job];
    Sides sides;
    const ScaledWeight* const scale_a = pairs_[job.pair].scale_a;
    const std::size_t reads_a = scale_a == nullptr ? 0 : NumScaleReads(*scale_a);
    const auto scales_of_a = inputs.subspan(2, reads_a);
    const auto scales_of_b = inputs.subspan(2 + reads_a);
    job.a.DecodeScales(unit.begin, unit.end, scales_of_a, sides.scales_a);
    job.b.DecodeScales(unit.begin, unit.end, scales_of_b, sides.scales_b);
    const bool same_scales =
        job.same_form && std::equal(scales_of_a.begin(), scales_of_a.end(), scales_of_b.begin(),
                                    scales_of_b.end(), [](const auto& a, const auto& b) {
                                      return std::equal(a.begin(), a.end(), b.begin(), b.end());
                                    });
    std::vector<PanelDifference> panels;
    const std::uint64_t size = PanelElements(job.a.elements());
    for (std::uint64_t begin = unit.begin; begin < unit.end; begin += size) {
      const std::uint64_t end = std::min(unit.end, begin + size);
      const auto part = [&](const ValueReader& reader, std::span<const std::byte> bytes) {
        return bytes.subspan(reader.BytesTo(begin) - reader.BytesTo(unit.begin),
                             reader.BytesTo(end) - reader.BytesTo(begin));
      };
      sides.bytes_a = part(job.a, inputs[0]);
      sides.bytes_b = part(job.b, inputs[1]);
      panels.push_back(ComparePanel(job, begin, end, same_scales, sides));
    }
    const std::lock_guard lock(mutexes_[unit.job % mutexes_.size()]);
    std::move(panels.begin(), panels.end(), std::back_inserter(job.panels));
    job.elements_left -= unit.end - unit.begin;
    if (job.elements_left == 0) Finish(job);
  }

  std::vector<PairResult> Take() { return std::move(results_); }

 private:
  struct Sides {
    std::span<const std::byte> bytes_a;  // of a panel
    std::span<const std::byte> bytes_b;
    ValueReader::Scales scales_a;  // of a unit
    ValueReader::Scales scales_b;
  };

  void AddJob(std::size_t i) {
    const TensorPair& pair = pairs_[i];
    if (pair.a == Catalog::kNone || pair.b == Catalog::kNone) return;
    const CatalogTensor& a = catalog_.tensors()[pair.a];
    const CatalogTensor& b = catalog_.tensors()[pair.b];
    Job job;
    job.pair = i;
    job.a = ValueReader(catalog_, pair.a, pair.scale_a);
    job.b = ValueReader(catalog_, pair.b, pair.scale_b);
    if (ShapeOfValues(a, pair.scale_a) != ShapeOfValues(b, pair.scale_b) ||
        job.a.elements() != job.b.elements()) {
      results_[i].comparison = Comparison::kDifferentShape;
      return;
    }
    job.same_form = a.dtype == b.dtype && SameScaleForm(catalog_, pair);
    job.round_a = job.a.scaled() && !job.b.scaled() && b.dtype == Dtype::kBF16;
    job.round_b = job.b.scaled() && !job.a.scaled() && a.dtype == Dtype::kBF16;
    job.elements_left = job.a.elements();
    results_[i].statistics.elements = job.a.elements();
    if (job.elements_left == 0) {
      results_[i].comparison =
          job.same_form ? Comparison::kIdenticalBytes : Comparison::kIdenticalValues;
      return;
    }
    total_bytes_ += a.extent.length + b.extent.length;
    jobs_.push_back(std::move(job));
  }

  void AddUnits(std::uint32_t j, std::size_t unit_bytes) {
    const Job& job = jobs_[j];
    const std::uint64_t panel = PanelElements(job.a.elements());
    const std::uint64_t panel_bytes = std::max(job.a.BytesTo(panel), job.b.BytesTo(panel));
    const std::uint64_t step = std::max<std::uint64_t>(1, unit_bytes / panel_bytes) * panel;
    for (std::uint64_t begin = 0; begin < job.a.elements(); begin += step) {
      units_.push_back({j, begin, std::min(job.a.elements(), begin + step)});
    }
  }

  PanelDifference ComparePanel(const Job& job, std::uint64_t begin, std::uint64_t end,
                               bool same_scales, const Sides& sides) const {
    PanelDifference panel;
    panel.begin = begin;
    panel.same_bytes = same_scales && std::equal(sides.bytes_a.begin(), sides.bytes_a.end(),
                                                 sides.bytes_b.begin(), sides.bytes_b.end());
    if (job.a.form() == ValueForm::kNone || job.b.form() == ValueForm::kNone) {
      if (!panel.same_bytes) MarkUndecoded(begin, end, panel);
      return panel;
    }
    const bool doubles = job.a.form() == ValueForm::kDouble || job.b.form() == ValueForm::kDouble;
    for (std::uint64_t first = begin; first < end; first += kValueChunk) {
      const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(kValueChunk, end - first));
      const auto part = [&](const ValueReader& reader, std::span<const std::byte> bytes) {
        return bytes.subspan(reader.BytesTo(first) - reader.BytesTo(begin),
                             reader.BytesTo(first + size) - reader.BytesTo(first));
      };
      const std::span<const std::byte> a = part(job.a, sides.bytes_a);
      const std::span<const std::byte> b = part(job.b, sides.bytes_b);
      if (doubles) {
        CompareDoubles(job, first, size, a, b, panel);
      } else {
        CompareFloats(job, first, size, a, b, sides, panel);
      }
    }
    return panel;
  }

  // All that can be said of values that are not decoded.
  static void MarkUndecoded(std::uint64_t begin, std::uint64_t end, PanelDifference& panel) {
    panel.statistics.differing = end - begin;
    panel.statistics.beyond_tolerance = end - begin;
    panel.statistics.nonfinite_differing = end - begin;
    panel.statistics.first_element = begin;
    panel.statistics.first_a = std::numeric_limits<double>::quiet_NaN();
    panel.statistics.first_b = std::numeric_limits<double>::quiet_NaN();
  }

  void CompareFloats(const Job& job, std::uint64_t first, std::size_t size,
                     std::span<const std::byte> bytes_a, std::span<const std::byte> bytes_b,
                     const Sides& sides, PanelDifference& panel) const {
    alignas(64) std::array<float, kValueChunk> buffer_a;
    alignas(64) std::array<float, kValueChunk> buffer_b;
    const std::span<float> a = std::span(buffer_a).first(size);
    const std::span<float> b = std::span(buffer_b).first(size);
    Decode(job.b, job.round_b, first, bytes_b, sides.scales_b, b);
    panel.squares += static_cast<long double>(quant::MeasureFloats(b).sum_squares);
    if (panel.same_bytes) return;
    Decode(job.a, job.round_a, first, bytes_a, sides.scales_a, a);
    if (quant::EqualFloats(a, b)) return;
    for (std::size_t i = 0; i < size; ++i) {
      CompareElement(first + i, double{a[i]}, double{b[i]}, false, panel);
    }
  }

  static void Decode(const ValueReader& reader, bool round, std::uint64_t first,
                     std::span<const std::byte> bytes, const ValueReader::Scales& scales,
                     std::span<float> out) {
    if (round) {
      reader.FloatsRoundedToBF16(first, bytes, scales, out.data());
    } else {
      reader.Floats(first, bytes, scales, out.data());
    }
  }

  void CompareDoubles(const Job& job, std::uint64_t first, std::size_t size,
                      std::span<const std::byte> bytes_a, std::span<const std::byte> bytes_b,
                      PanelDifference& panel) const {
    std::array<double, kValueChunk> a;
    std::array<double, kValueChunk> b;
    Widen(job.a, size, bytes_a, a);
    Widen(job.b, size, bytes_b, b);
    const Dtype dtype = catalog_.tensors()[pairs_[job.pair].a].dtype;
    const bool exact = job.same_form && IsWideInteger(dtype);
    for (std::size_t i = 0; i < size; ++i) {
      // Integers beyond 2^53 may differ where their doubles do not.
      const bool bits_differ =
          exact && std::memcmp(bytes_a.data() + 8 * i, bytes_b.data() + 8 * i, 8) != 0;
      if (std::isfinite(b[i])) {
        panel.squares += static_cast<long double>(b[i]) * static_cast<long double>(b[i]);
      }
      CompareElement(first + i, a[i], b[i], bits_differ, panel);
    }
  }

  static void Widen(const ValueReader& reader, std::size_t size, std::span<const std::byte> bytes,
                    std::array<double, kValueChunk>& out) {
    if (reader.form() == ValueForm::kDouble) return reader.Doubles(bytes, out.data());
    std::array<float, kValueChunk> floats;
    reader.StoredFloats(bytes, floats.data());
    std::copy_n(floats.begin(), size, out.begin());
  }

  void CompareElement(std::uint64_t element, double a, double b, bool bits_differ,
                      PanelDifference& panel) const {
    const bool both_nan = std::isnan(a) && std::isnan(b);
    if ((a == b || both_nan) && !bits_differ) return;
    DifferenceStatistics& s = panel.statistics;
    if (s.differing++ == 0) {
      s.first_element = element;
      s.first_a = a;
      s.first_b = b;
    }
    if (!std::isfinite(a) || !std::isfinite(b)) {
      ++s.nonfinite_differing;
      ++s.beyond_tolerance;
      return;
    }
    const double error = std::max(std::abs(a - b), bits_differ ? 1.0 : 0.0);
    if (!(error <= request_.atol + request_.rtol * std::abs(b))) ++s.beyond_tolerance;
    s.max_abs = std::max(s.max_abs, error);
    if (b != 0) s.max_relative = std::max(s.max_relative, error / std::abs(b));
    panel.squared_error += static_cast<long double>(error) * static_cast<long double>(error);
  }

  // All panels are there: adds them up in their order.
  void Finish(Job& job) {
    std::sort(job.panels.begin(), job.panels.end(),
              [](const auto& x, const auto& y) { return x.begin < y.begin; });
    PairResult& result = results_[job.pair];
    DifferenceStatistics& sum = result.statistics;
    long double squared_error = 0;
    long double squares = 0;
    bool same_bytes = true;
    for (const PanelDifference& panel : job.panels) {
      const DifferenceStatistics& next = panel.statistics;
      if (sum.differing == 0 && next.differing != 0) {
        sum.first_element = next.first_element;
        sum.first_a = next.first_a;
        sum.first_b = next.first_b;
      }
      sum.differing += next.differing;
      sum.beyond_tolerance += next.beyond_tolerance;
      sum.nonfinite_differing += next.nonfinite_differing;
      sum.max_abs = std::max(sum.max_abs, next.max_abs);
      sum.max_relative = std::max(sum.max_relative, next.max_relative);
      squared_error += panel.squared_error;
      squares += panel.squares;
      same_bytes = same_bytes && panel.same_bytes;
    }
    job.panels = {};
    const std::uint64_t measured = sum.elements - sum.nonfinite_differing;
    if (squared_error > 0) {
      sum.rmse = static_cast<double>(std::sqrt(squared_error / static_cast<long double>(measured)));
      sum.relative = squares > 0 ? static_cast<double>(std::sqrt(squared_error / squares))
                                 : std::numeric_limits<double>::infinity();
    }
    if (sum.differing == 0) {
      result.comparison = same_bytes ? Comparison::kIdenticalBytes : Comparison::kIdenticalValues;
    } else {
      result.comparison =
          sum.beyond_tolerance == 0 ? Comparison::kWithinTolerance : Comparison::kDifferent;
    }
  }

  const Catalog& catalog_;
  const std::vector<TensorPair>& pairs_;
  const CompareRequest& request_;
  std::vector<PairResult> results_;
  std::vector<Job> jobs_;
  std::vector<Unit> units_;
  std::uint64_t total_bytes_ = 0;
  std::array<std::mutex, 64> mutexes_;  // of jobs, by position
};

}  // namespace

std::vector<PairResult> ComparePairs(const TwoCheckpoints& both,
                                     const std::vector<TensorPair>& pairs,
                                     const CompareRequest& request, SourceFiles& sources,
                                     ProgressSink& progress, const StopToken& stop) {
  const std::uint64_t memory =
      request.memory_bytes != 0 ? request.memory_bytes : kDefaultMemoryBytes;
  const UnitResources resources = PlanUnitPipeline(request.threads, memory, 2);
  Comparer comparer(both, pairs, request, resources.unit_bytes);
  progress.OnPhase("comparing", comparer.total_bytes());

  std::vector<Scratch> scratches(resources.workers);
  const auto read = [&](std::size_t unit, unsigned worker) {
    Scratch& scratch = scratches[worker];
    scratch.reads.clear();
    comparer.AppendReads(comparer.units()[unit], scratch.reads);
    sources.Read(scratch.reads, scratch.buffer, scratch.inputs);
  };
  const auto compute = [&](std::size_t unit, unsigned worker) {
    const Scratch& scratch = scratches[worker];
    comparer.Compare(comparer.units()[unit], scratch.inputs);
    const std::uint32_t file = both.catalog.tensors()[scratch.reads[0].tensor].extent.file;
    progress.OnBytes(scratch.inputs[0].size() + scratch.inputs[1].size(),
                     both.catalog.files()[file].name);
  };
  RunUnitPipeline(comparer.units().size(), resources.workers, request.threads, read, compute, stop);
  return comparer.Take();
}

}  // namespace dsv3::convert
