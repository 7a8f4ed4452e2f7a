#include "convert/forward/model_weights.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <tbb/enumerable_thread_specific.h>

#include "convert/forward/product_comparison.h"
#include "convert/forward/ranks.h"
#include "convert/forward/thread_arena.h"
#include "convert/model/expected_tensors.h"
#include "convert/stream/executor.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"
#include "quant/matmul.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

ScaledWeights FindScales(const OpenedModel& model) {
  ScaledWeights scaled = FindScaledWeights(model.catalog, model.config);
  formats::RequireNoErrors(scaled.findings, {"fault of the scales", "faults of the scales"});
  if (!scaled.unsupported.empty()) {
    formats::Findings first = {scaled.unsupported.front()};
    first.front().message += "; the forward pass reads FP8, BF16, F16 and F32 weights";
    formats::RequireNoErrors(first, {"weight of another form", "weights of other forms"});
  }
  return scaled;
}

// A loop without an exit is a fast one.
bool AreFinite(std::span<const float> values) {
  unsigned others = 0;
  for (const float value : values) others |= static_cast<unsigned>(!std::isfinite(value));
  return others == 0;
}

std::optional<std::size_t> FirstNotFinite(std::span<const float> values) {
  if (AreFinite(values)) return std::nullopt;
  const auto found = std::find_if_not(values.begin(), values.end(),
                                      [](float value) { return std::isfinite(value); });
  return static_cast<std::size_t>(found - values.begin());
}

bool IsFloat(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kBF16 || dtype == Dtype::kF16;
}

// Rows [begin, end) of a weight with all columns of the tensor.
TensorRows RowsIn(const WeightRows& weight, std::uint64_t begin, std::uint64_t end) {
  return {weight.tensor, weight.first_row + begin, weight.first_row + end,
          weight.tensor_cols == 0 ? weight.cols : weight.tensor_cols};
}

}  // namespace

// Of one thread.
struct ModelWeights::Buffers {
  RowBytes read;
  RowValues values;
};

class ModelWeights::Arena : public ThreadArena {
 public:
  using ThreadArena::ThreadArena;
  Buffers& buffers() { return buffers_.local(); }

 private:
  tbb::enumerable_thread_specific<Buffers> buffers_;
};

ModelWeights::ModelWeights(const OpenedModel& model, WeightValues values, unsigned threads,
                           std::uint64_t memory_bytes, ProgressSink& progress,
                           const StopToken& stop)
    : ModelWeights(model, values, threads, memory_bytes, progress, stop, {}) {
  if (!model.ranks) return;
  ranks_ = std::make_shared<Ranks>(model);
  reader_.sources().ObserveStored(
      [this](const SourceRange& range, std::span<const std::byte> bytes) {
        ranks_->CompareCopies(range, bytes);
      });
}

ModelWeights::ModelWeights(const OpenedModel& model, WeightValues values, unsigned threads,
                           std::uint64_t memory_bytes, ProgressSink& progress,
                           const StopToken& stop, std::vector<ExpressionPtr> origins)
    : model_(model),
      values_(values),
      threads_(threads),
      memory_bytes_(memory_bytes),
      scaled_(FindScales(model)),
      scales_(scaled_.pairs, model.catalog.tensors().size()),
      prefix_(FindNamePrefix(model.catalog)),
      origins_(std::move(origins)),
      memory_(memory_bytes == 0 ? kDefaultMemoryBytes : memory_bytes, threads),
      reader_(model, scales_, origins_, memory_),
      progress_(progress),
      stop_(stop),
      panel_rule_{memory_.panel_bytes, threads},
      arena_(std::make_unique<Arena>(threads)) {}

ModelWeights::~ModelWeights() = default;

std::string ModelWeights::ModuleName(const WeightRows& weight) const {
  constexpr std::string_view kWeight = ".weight";
  std::string name = model_.catalog.tensors()[weight.tensor].name.substr(prefix_.size());
  if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
  return name;
}

std::string ModelWeights::ShownFile(std::uint32_t tensor, std::uint64_t row,
                                    std::uint64_t col) const {
  const std::string file = FileOf(tensor, row, col);
  return formats::ShownPath(names_directory_ ? (model_.directory / file).string() : file);
}

bool ModelWeights::Has(const std::string& name) const {
  return model_.catalog.Find(prefix_ + name) != Catalog::kNone;
}

std::uint32_t ModelWeights::Find(const std::string& name) const {
  const std::uint32_t tensor = model_.catalog.Find(prefix_ + name);
  if (tensor != Catalog::kNone) return tensor;
  throw Error(ErrorCode::kBadInput,
              fmt::format("tensor {} is missing, which the forward pass needs; `dsv3-verify "
                          "structure` lists what is missing",
                          QuoteForMessage(prefix_ + name)),
              {"", prefix_ + name});
}

WeightRows ModelWeights::Matrix(const std::string& name, std::uint64_t rows,
                                std::uint64_t cols) const {
  return MatrixOf(name, 0, 1, 0, rows, rows, cols);
}

WeightRows ModelWeights::MatrixOf(const std::string& name, std::uint64_t matrix,
                                  std::uint64_t matrices, std::uint64_t first_row,
                                  std::uint64_t rows, std::uint64_t all_rows,
                                  std::uint64_t cols) const {
  const std::uint32_t position = Find(name);
  const CatalogTensor& tensor = model_.catalog.tensors()[position];
  const formats::Shape expected =
      matrices == 1 ? formats::Shape{all_rows, cols} : formats::Shape{matrices, all_rows, cols};
  if (tensor.shape != expected) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} has shape {}, expected {} as config.json says",
                            ShownFile(position), QuoteForMessage(tensor.name),
                            formats::ShapeToString(tensor.shape), formats::ShapeToString(expected)),
                {FileOf(position), tensor.name});
  }
  if (!IsFloat(tensor.dtype) && scales_.OfWeight(position) == nullptr) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is {} without a scale; the forward pass reads FP8 with "
                            "scales, BF16, F16 and F32 weights",
                            ShownFile(position), QuoteForMessage(tensor.name),
                            formats::DtypeName(tensor.dtype)),
                {FileOf(position), tensor.name});
  }
  return {position, matrix * all_rows + first_row, rows, cols};
}

bool ModelWeights::IsFp8(const WeightRows& weight) const {
  return scales_.OfWeight(weight.tensor) != nullptr;
}

void ModelWeights::Read(const WeightRows& weight, std::uint64_t begin, std::uint64_t end,
                        WeightValues values, Buffers& buffers) {
  if (weight.tensor_cols != 0) {
    const std::uint64_t all = weight.tensor_cols;
    Read({weight.tensor, weight.first_row, weight.rows, all}, begin, end, values, buffers);
    buffers.values.KeepColumns(static_cast<std::size_t>(end - begin), static_cast<std::size_t>(all),
                               static_cast<std::size_t>(weight.first_col),
                               static_cast<std::size_t>(weight.first_col + weight.cols));
    return;
  }
  const TensorRows rows = RowsIn(weight, begin, end);
  const std::span<const std::span<const std::byte>> inputs =
      reader_.BytesOf(rows, buffers.read).inputs;
  if (ranks_ && !rank_) {
    ranks_->NoteUse(weight.tensor);
    if (const ScaledWeight* const pair = scales_.OfWeight(weight.tensor)) {
      ranks_->NoteUse(pair->scale);
    }
  }
  progress_.OnBytes(inputs[0].size(), FileOf(weight.tensor));
  buffers.values.Make(model_.catalog, scales_, rows, inputs, values);
}

void ModelWeights::FailNotFinite(const WeightRows& weight, std::uint64_t row) {
  Buffers buffers;
  Read(weight, row, row + 1, buffers);
  std::optional<std::uint64_t> column;
  for (std::uint64_t k = 0; k < weight.cols && !column; ++k) {
    if (!std::isfinite(buffers.values.panel().At(k))) column = k;
  }
  const std::string& name = model_.catalog.tensors()[weight.tensor].name;
  const std::string problem =
      column ? fmt::format("is not finite in row {}, column {}", weight.first_row + row, *column)
             : fmt::format("makes values that are not finite, in row {}", weight.first_row + row);
  const std::uint64_t in_tensor = weight.first_row + row;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} {}; `dsv3-verify numeric` lists all such tensors",
                          ShownFile(weight.tensor, in_tensor, column.value_or(0)),
                          QuoteForMessage(name), problem),
              {FileOf(weight.tensor, in_tensor, column.value_or(0)), name});
}

std::vector<float> ModelWeights::Vector(const std::string& name, std::uint64_t length) {
  const std::uint32_t position = Find(name);
  const CatalogTensor& tensor = model_.catalog.tensors()[position];
  if (tensor.shape != formats::Shape{length} || !IsFloat(tensor.dtype)) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: tensor {} is {} {}, expected a float of shape [{}]", ShownFile(position),
                    QuoteForMessage(tensor.name), formats::DtypeName(tensor.dtype),
                    formats::ShapeToString(tensor.shape), length),
        {FileOf(position), tensor.name});
  }
  std::vector<float> values(length);
  const std::vector<std::uint64_t> row = {0};
  ReadSingleRows({position, 0, 1, length}, row, values.data());
  return values;
}

WeightPanel ModelWeights::ReadPanel(const WeightRows& weight, std::uint64_t begin,
                                    std::uint64_t end, WeightValues values) {
  Buffers& buffers = arena_->buffers();
  Read(weight, begin, end, values, buffers);
  return buffers.values.panel();
}

void ModelWeights::ReadRows(const WeightRows& weight, std::span<const std::uint64_t> rows,
                            float* out) {
  ReadSingleRows(weight, rows, out);
  if (comparison_ != nullptr) comparison_->CompareRows(weight, rows, out);
}

void ModelWeights::ReadSingleRows(const WeightRows& weight, std::span<const std::uint64_t> rows,
                                  float* out) {
  ForEach(rows.size(), [&](std::size_t i) {
    Buffers& buffers = arena_->buffers();
    Read(weight, rows[i], rows[i] + 1, buffers);
    float* const values = out + i * weight.cols;
    buffers.values.panel().CopyTo(values, static_cast<std::size_t>(weight.cols));
    if (!AreFinite({values, static_cast<std::size_t>(weight.cols)})) {
      FailNotFinite(weight, rows[i]);
    }
  });
}

std::uint64_t ModelWeights::RowsOfPanel(const WeightRows& weight) const {
  return panel_rule_.RowsOf(weight.rows, weight.cols,
                            formats::DtypeBits(model_.catalog.tensors()[weight.tensor].dtype));
}

void ModelWeights::AppendPanels(const WeightRows& weight, std::vector<TensorRows>& panels) const {
  const std::uint64_t step = RowsOfPanel(weight);
  for (std::uint64_t row = 0; row < weight.rows; row += step) {
    panels.push_back(RowsIn(weight, row, std::min(weight.rows, row + step)));
  }
}

void ModelWeights::Expect(std::span<const WeightRows> weights) {
  std::vector<TensorRows> panels;
  for (const WeightRows& weight : weights) {
    const TensorRows first = RowsIn(weight, 0, std::min(weight.rows, RowsOfPanel(weight)));
    if (!reader_.IsAtHand(first)) AppendPanels(weight, panels);
  }
  if (!panels.empty()) reader_.Ask(panels);
}

WeightPanel ModelWeights::MultiplyPanel(const Product& product, std::uint64_t begin,
                                        std::uint64_t end) {
  Buffers& buffers = arena_->buffers();
  Read(product.weight, begin, end, buffers);
  const auto rows = static_cast<std::size_t>(end - begin);
  float* const out = product.out + begin;
  const quant::Activations in{product.in, product.tokens, product.in_stride};
  MultiplyValues(product.weight, rows, buffers.values.panel(), in, out, product.out_stride);
  for (std::size_t token = 0; token < product.tokens; ++token) {
    float* const values = out + token * product.out_stride;
    if (product.bias != nullptr) {
      for (std::size_t row = 0; row < rows; ++row) values[row] += product.bias[begin + row];
    }
    if (const auto row = FirstNotFinite({values, rows})) {
      FailNotFinite(product.weight, begin + *row);
    }
  }
  return buffers.values.panel();
}

void ModelWeights::Multiply(std::span<const Product> products) {
  struct Panel {
    std::size_t product = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  std::vector<Panel> panels;
  std::vector<WeightRows> weights;
  for (std::size_t i = 0; i < products.size(); ++i) {
    if (products[i].tokens == 0) continue;
    const WeightRows& weight = products[i].weight;
    weights.push_back(weight);
    const std::uint64_t step = RowsOfPanel(weight);
    for (std::uint64_t row = 0; row < weight.rows; row += step) {
      panels.push_back({i, row, std::min(weight.rows, row + step)});
    }
  }
  Expect(weights);
  std::optional<ProductComparison> comparison;
  if (comparison_ != nullptr) comparison.emplace(*comparison_, products);
  ForEach(panels.size(), [&](std::size_t i) {
    const auto [product, begin, end] = panels[i];
    const WeightPanel values = MultiplyPanel(products[product], begin, end);
    if (comparison) comparison->Compare(product, begin, end, values);
  });
  if (comparison) comparison->Finish();
}

void ModelWeights::Multiply(std::span<const TransposedProduct> products) {
  std::optional<ProductComparison> comparison;
  if (comparison_ != nullptr) comparison.emplace(*comparison_, products);
  ForEach(products.size(), [&](std::size_t i) {
    const TransposedProduct& product = products[i];
    Buffers& buffers = arena_->buffers();
    Read(product.weight, 0, product.weight.rows, buffers);
    const auto cols = static_cast<std::size_t>(product.weight.cols);
    buffers.values.MakeFloats(static_cast<std::size_t>(product.weight.rows) * cols);
    for (std::size_t token = 0; token < product.tokens; ++token) {
      float* const out = product.out + token * product.out_stride;
      quant::AddScaledRows(product.in + token * product.in_stride,
                           static_cast<std::size_t>(product.weight.rows),
                           buffers.values.panel().floats, cols, out, cols);
      if (!AreFinite({out, cols})) FailNotFinite(product.weight, 0);
    }
    if (comparison) comparison->Compare(i, 0, product.weight.rows, buffers.values.panel());
  });
  if (comparison) comparison->Finish();
}

void ModelWeights::ForEach(std::size_t count, const std::function<void(std::size_t)>& task) {
  arena_->ForEach(count, [&](std::size_t i) {
    if (stop_.stopped()) ThrowInterrupted();
    task(i);
  });
}

}  // namespace dsv3::convert
