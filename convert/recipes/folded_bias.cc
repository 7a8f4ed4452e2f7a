#include "convert/recipes/folded_bias.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/model/shifted_norms.h"
#include "convert/stream/executor.h"
#include "convert/stream/scan.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

// Exporters multiply and add in float: of the sum of magnitudes such a share may be lost. The bias
// itself is rounded to an integer.
constexpr double kFloatShare = 0x1p-21;
constexpr double kRounded = 2;

// What the layers behind a shifted norm take back.
struct Shift {
  std::uint32_t norm = 0;     // position of the norm's bias
  std::vector<float> values;  // one for each column; empty: all are zero
  double magnitude = 0;       // of all together
};

// A weight with a quant_bias, and what is added up of its codes, by row.
struct BiasedWeight {
  std::uint32_t bias = 0;
  std::uint32_t offset = Catalog::kNone;
  std::uint64_t cols = 0;
  std::vector<std::int64_t> sums;
  std::vector<std::int64_t> magnitudes;
  const Shift* shift = nullptr;  // of the norm before it; nullptr: there is none
  double input_scale = 1;        // where there is one
  std::vector<double> shifted;   // products of codes and shift

  void Add(std::uint64_t begin, std::span<const std::byte> codes) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const auto code = static_cast<std::int8_t>(std::to_integer<std::uint8_t>(codes[i]));
      const auto row = static_cast<std::size_t>((begin + i) / cols);
      sums[row] += code;
      magnitudes[row] += std::abs(code);
      if (shift != nullptr) {
        shifted[row] +=
            code * static_cast<double>(shift->values[static_cast<std::size_t>((begin + i) % cols)]);
      }
    }
  }
};

class BiasCheck {
 public:
  // `files`: the names of those that are there.
  BiasCheck(const Catalog& catalog, SourceFiles& sources,
            std::unordered_set<std::string_view> files)
      : catalog_(catalog), sources_(sources), files_(std::move(files)) {}

  void Run(const std::vector<ScaledWeight>& weights, ProgressSink& progress,
           const StopToken& stop) {
    std::vector<std::uint32_t> codes;
    std::unordered_map<std::uint32_t, BiasedWeight> biased;
    for (const ScaledWeight& weight : weights) {
      std::optional<BiasedWeight> found = Find(weight);
      if (!found || !IsThere(weight.weight) || !IsThere(found->bias) || !IsThere(found->offset)) {
        continue;
      }
      codes.push_back(weight.weight);
      biased.emplace(weight.weight, *std::move(found));
    }
    if (codes.empty()) return;
    FindShifts(biased);
    ScanOptions options;
    options.threads = ResolveThreads(0);
    options.memory_bytes = kMinMemoryBytes;
    options.phase = "checking biases";
    options.in_order = true;
    const auto visit = [&](const ScanPiece& piece) {
      biased.at(piece.tensor).Add(piece.begin, piece.bytes);
    };
    ScanTensors(catalog_, codes, sources_, options, {}, visit, progress, stop);
    for (const std::uint32_t tensor : codes) Judge(biased.at(tensor));
  }

 private:
  std::optional<BiasedWeight> Find(const ScaledWeight& weight) const {
    constexpr std::string_view kWeight = ".weight";
    const std::string& name = catalog_.tensors()[weight.weight].name;
    if (weight.format != quant::CodeFormat::kI8 || weight.matrices != 1 ||
        !name.ends_with(kWeight)) {
      return std::nullopt;
    }
    const std::string module = name.substr(0, name.size() - kWeight.size());
    BiasedWeight found;
    found.bias = catalog_.Find(module + ".quant_bias");
    if (found.bias == Catalog::kNone) return std::nullopt;
    found.offset = catalog_.Find(module + ".input_offset");
    found.cols = weight.cols;
    found.sums.resize(static_cast<std::size_t>(weight.rows));
    found.magnitudes.resize(found.sums.size());
    Require(found.bias, Dtype::kI32, weight.rows);
    return found;
  }

  // Gives the weights the shifts of the norms before them.
  void FindShifts(std::unordered_map<std::uint32_t, BiasedWeight>& biased) {
    for (const ShiftedNorm& norm : FindShiftedNorms(catalog_)) {
      if (!IsThere(norm.bias)) continue;
      const Shift& shift = shifts_.emplace_back(ReadShift(norm.bias));
      if (shift.values.empty()) continue;
      for (const std::string& module : norm.modules) {
        const std::uint32_t weight = catalog_.Find(module + ".weight");
        const auto found = weight == Catalog::kNone ? biased.end() : biased.find(weight);
        if (found == biased.end()) {
          // One whose file is not to be made was looked at when it was.
          if (weight != Catalog::kNone && !IsThere(weight)) continue;
          Fail(norm.bias, fmt::format("shifts the activations of {}, which has no quant_bias that "
                                      "takes that back, and weights alone cannot hold it; give "
                                      "the checkpoint that this one was quantised from",
                                      QuoteForMessage(module)));
        }
        BiasedWeight& behind = found->second;
        if (shift.values.size() != behind.cols) {
          Fail(norm.bias, fmt::format("has {} values, and {} has {} columns", shift.values.size(),
                                      QuoteForMessage(module), behind.cols));
        }
        behind.shift = &shift;
        behind.input_scale = InputScaleOf(module);
        behind.shifted.resize(behind.sums.size());
      }
    }
  }

  Shift ReadShift(std::uint32_t position) {
    const CatalogTensor& tensor = catalog_.tensors()[position];
    Shift shift{position, {}, 0};
    quant::DecodeScales(*ScaleFormatOf(tensor.dtype), ReadWhole(position), shift.values);
    for (const float value : shift.values) {
      if (!std::isfinite(value)) Fail(position, "holds a value that is not finite");
      shift.magnitude += std::abs(static_cast<double>(value));
    }
    if (shift.magnitude == 0) shift.values.clear();
    return shift;
  }

  double InputScaleOf(const std::string& module) {
    const std::uint32_t position = catalog_.Find(module + ".input_scale");
    const double scale = position == Catalog::kNone ? 0 : OffsetOf(position);
    if (scale > 0 && std::isfinite(scale)) return scale;
    const std::uint32_t bias = catalog_.Find(module + ".quant_bias");
    Fail(bias,
         "takes back a shift of activations, and there is no input_scale beside it, or none "
         "that is positive and finite");
  }

  void Require(std::uint32_t position, Dtype dtype, std::uint64_t elements) const {
    const CatalogTensor& tensor = catalog_.tensors()[position];
    if (tensor.dtype == dtype && formats::NumElements(tensor.shape) == elements) return;
    Fail(position, fmt::format("is {} {}, expected {} {} value{}", formats::DtypeName(tensor.dtype),
                               formats::ShapeToString(tensor.shape), elements,
                               formats::DtypeName(dtype), elements == 1 ? "" : "s"));
  }

  bool IsThere(std::uint32_t position) const {
    return position == Catalog::kNone || files_.contains(FileOf(position));
  }

  const std::string& FileOf(std::uint32_t position) const {
    return catalog_.files()[catalog_.tensors()[position].extent.file].name;
  }

  [[noreturn]] void Fail(std::uint32_t position, const std::string& what) const {
    const std::string& tensor = catalog_.tensors()[position].name;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} {}", formats::ShownPath(FileOf(position)),
                            QuoteForMessage(tensor), what),
                {FileOf(position), tensor});
  }

  std::vector<std::byte> ReadWhole(std::uint32_t position) {
    formats::AlignedBuffer buffer;
    std::vector<std::span<const std::byte>> inputs;
    const SourceRange range{position, 0, catalog_.tensors()[position].extent.length};
    sources_.Read(std::span(&range, 1), buffer, inputs);
    return {inputs[0].begin(), inputs[0].end()};
  }

  // The offset of the activations, or their scale; 0 where there is none.
  double OffsetOf(std::uint32_t position) {
    if (position == Catalog::kNone) return 0;
    const CatalogTensor& tensor = catalog_.tensors()[position];
    const std::optional<quant::ScaleFormat> format = ScaleFormatOf(tensor.dtype);
    if (formats::NumElements(tensor.shape) != 1 || (!format && tensor.dtype != Dtype::kI8)) {
      Fail(position,
           fmt::format("is {} {}, expected one F32, BF16, F16 or I8 value",
                       formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape)));
    }
    const std::vector<std::byte> bytes = ReadWhole(position);
    if (!format) return static_cast<std::int8_t>(std::to_integer<std::uint8_t>(bytes[0]));
    std::vector<float> values;
    quant::DecodeScales(*format, bytes, values);
    return static_cast<double>(values.front());
  }

  void Judge(const BiasedWeight& weight) {
    const double offset = OffsetOf(weight.offset);
    const std::vector<std::byte> bytes = ReadWhole(weight.bias);
    for (std::size_t row = 0; row < weight.sums.size(); ++row) {
      std::int32_t stored = 0;
      std::memcpy(&stored, bytes.data() + row * sizeof stored, sizeof stored);
      double bias = stored + offset * static_cast<double>(weight.sums[row]);
      double lost =
          kRounded + kFloatShare * std::abs(offset) * static_cast<double>(weight.magnitudes[row]);
      if (weight.shift != nullptr) {
        bias += weight.shifted[row] / weight.input_scale;
        lost += weight.shift->magnitude / weight.input_scale;
      }
      if (std::abs(bias) <= lost) continue;
      Fail(weight.bias,
           fmt::format("holds a bias of the module, in row {} {} steps of deq_scale beyond what "
                       "input_offset{} takes, and weights alone cannot hold it; give the "
                       "checkpoint that this one was quantised from",
                       row, bias,
                       weight.shift == nullptr
                           ? std::string()
                           : " and " + catalog_.tensors()[weight.shift->norm].name));
    }
  }

  const Catalog& catalog_;
  SourceFiles& sources_;
  const std::unordered_set<std::string_view> files_;
  std::deque<Shift> shifts_;
};

}  // namespace

void RefuseFoldedBiases(const Catalog& catalog, const Plan& plan,
                        const std::vector<ScaledWeight>& weights, const PreflightRun& run,
                        ProgressSink& progress, const StopToken& stop, bool of_all_files) {
  std::unordered_set<std::string_view> planned;
  std::unordered_set<std::string_view> there;
  for (const PlannedFile& file : plan.files) planned.insert(file.name);
  for (const std::size_t file : run.to_make) there.insert(plan.files[file].name);
  for (const SourceFile& file : catalog.files()) {
    // One that holds nothing but what is beside codes becomes no file.
    const bool is_beside = !planned.contains(file.name) && formats::Exists(file.path);
    if (of_all_files || is_beside) there.insert(file.name);
  }
  BiasCheck(catalog, run.sources, std::move(there)).Run(weights, progress, stop);
}

}  // namespace dsv3::convert
