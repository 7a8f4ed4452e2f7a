#include "convert/forward/product_comparison.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "quant/codec.h"
#include "quant/matmul.h"

namespace dsv3::convert {
namespace {

// Of outputs that are computed at a time.
constexpr std::size_t kOutputs = std::size_t{1} << 16;

// Elements of a row that rows are recognised by.
constexpr std::size_t kRowBegin = 16;

RowBegins BeginsOf(const WeightPanel& a, const WeightPanel& b, std::size_t rows, std::size_t cols) {
  RowBegins begins{rows, 0, 0};
  const std::size_t count = std::min(cols, kRowBegin);
  for (std::size_t row = 0; row < rows; ++row) {
    begins.a += HashOf(a.From(row * cols), count);
    begins.b += HashOf(b.From(row * cols), count);
  }
  return begins;
}

bool AreEqual(const WeightPanel& a, const WeightPanel& b, std::size_t count) {
  if (a.bf16 != nullptr && b.bf16 != nullptr) {
    if (std::memcmp(a.bf16, b.bf16, count * sizeof(std::uint16_t)) == 0) return true;
  }
  const auto equal = [&](const auto& of_a, const auto& of_b) {
    constexpr std::size_t kStep = 4096;  // loops without an exit are fast ones
    for (std::size_t first = 0; first < count; first += kStep) {
      const std::size_t end = std::min(count, first + kStep);
      unsigned differing = 0;
      for (std::size_t i = first; i < end; ++i) {
        differing |= static_cast<unsigned>(!(of_a(i) == of_b(i)));
      }
      if (differing != 0) return false;
    }
    return true;
  };
  const auto bf16 = [](const std::uint16_t* values) {
    return [values](std::size_t i) { return quant::DecodeBF16(values[i]); };
  };
  const auto floats = [](const float* values) {
    return [values](std::size_t i) { return values[i]; };
  };
  if (a.bf16 != nullptr) {
    return b.bf16 != nullptr ? equal(bf16(a.bf16), bf16(b.bf16))
                             : equal(bf16(a.bf16), floats(b.floats));
  }
  return b.bf16 != nullptr ? equal(floats(a.floats), bf16(b.bf16))
                           : equal(floats(a.floats), floats(b.floats));
}

}  // namespace

// A product of the call.
struct ProductComparison::One {
  std::uint64_t order = 0;
  ModuleRows module;
  WeightRows weight;
  RowMap::Result result = RowMap::Result::kFound;
  bool transposed = false;
  // The members of the product, of either kind.
  const float* in = nullptr;
  std::size_t in_stride = 0;
  std::size_t tokens = 0;
  const float* out = nullptr;
  std::size_t out_stride = 0;
  std::size_t outputs = 0;  // of a token
  const float* bias = nullptr;
  std::vector<float> other_bias;
  bool bias_differs = false;
  // Of one model alone the weight is FP8, so its alone are the inputs that are quantised.
  bool form_differs = false;
  const float* other_in = nullptr;  // with the same stride
  std::vector<float> other_quantised;
  std::atomic<bool> differs = false;
  // Of each output; empty where all weights are equal.
  std::mutex mutex;
  std::vector<ErrorSums> sums;
  std::vector<char> computed;
  RowBegins begins;

  void Allocate() {
    if (!sums.empty()) return;
    computed.assign(outputs, 0);
    sums.resize(outputs);
  }
};

ProductComparison::~ProductComparison() = default;

ProductComparison::One& ProductComparison::Prepare(const WeightRows& weight, const float* in,
                                                   std::size_t in_stride, std::size_t tokens,
                                                   const float* out, std::size_t out_stride) {
  One& one = *all_.emplace_back(std::make_unique<One>());
  one.order = comparison_.next_order_++;
  one.weight = weight;
  one.module = ModuleOf(comparison_.a_.weights, comparison_.a_.config, weight, true);
  std::vector<OtherRows> found;
  one.result = other_.map.Find(weight, true, found);
  one.in = in;
  one.other_in = in;
  one.in_stride = in_stride;
  one.tokens = tokens;
  one.out = out;
  one.out_stride = out_stride;
  return one;
}

// A's bias, or nullptr. B has one where its config says so.
void ProductComparison::PrepareBias(One& one, const float* bias) {
  one.bias = bias;
  const std::string name = one.module.module + ".bias";
  const bool other_has =
      other_.config.attention_bias && other_.weights.Has(name) && one.module.layer;
  if (other_has && one.result == RowMap::Result::kFound) {
    one.other_bias = other_.weights.Vector(name, one.outputs);
  }
  if (bias == nullptr) {
    one.bias_differs = !one.other_bias.empty();
  } else {
    one.bias_differs =
        one.other_bias.empty() || !std::equal(one.other_bias.begin(), one.other_bias.end(), bias);
  }
}

// B's module quantises the input itself, as the form of its weight says.
void ProductComparison::PrepareInput(One& one, const float* plain) {
  const ActivationValues activations = comparison_.activations_;
  if (!Quantizes(activations) || plain == nullptr || one.tokens == 0 ||
      one.result != RowMap::Result::kFound) {
    return;
  }
  std::vector<OtherRows> found;
  other_.map.Find(one.weight, true, found);
  const WeightRows& rows = found.front().rows;
  one.form_differs = comparison_.a_.weights.IsFp8(one.weight) != other_.weights.IsFp8(rows);
  if (!one.form_differs) return;
  one.other_in = Modules(other_.weights, activations)
                     .InputOf(rows, plain, one.tokens, one.in_stride, one.other_quantised);
}

ProductComparison::ProductComparison(WeightComparison& comparison,
                                     std::span<const Product> products)
    : comparison_(comparison), other_(comparison.Other({})) {
  for (const Product& product : products) {
    One& one = Prepare(product.weight, product.in, product.in_stride, product.tokens, product.out,
                       product.out_stride);
    one.outputs = static_cast<std::size_t>(product.weight.rows);
    PrepareBias(one, product.bias);
    PrepareInput(one, product.plain_in);
  }
}

ProductComparison::ProductComparison(WeightComparison& comparison,
                                     std::span<const TransposedProduct> products)
    : comparison_(comparison), other_(comparison.Other({})) {
  for (const TransposedProduct& product : products) {
    One& one = Prepare(product.weight, product.in, product.in_stride, product.tokens, product.out,
                       product.out_stride);
    one.transposed = true;
    one.outputs = static_cast<std::size_t>(product.weight.cols);
  }
}

ProductComparison::ProductComparison(WeightComparison& comparison, const One& like,
                                     const OtherSide& side)
    : comparison_(comparison), other_(comparison.Other(side)) {
  One& one = *all_.emplace_back(std::make_unique<One>());
  one.order = like.order;
  one.module = like.module;
  one.weight = like.weight;
  one.transposed = like.transposed;
  one.in = like.in;
  one.other_in = like.other_in;
  one.in_stride = like.in_stride;
  one.tokens = like.tokens;
  one.out = like.out;
  one.out_stride = like.out_stride;
  one.outputs = like.outputs;
  PrepareBias(one, like.bias);
}

void ProductComparison::Compare(std::size_t product, std::uint64_t begin, std::uint64_t end,
                                const WeightPanel& values) {
  One& one = *all_[product];
  const bool is_itself = !comparison_.has_other() && !other_.is_rank();
  if (one.result != RowMap::Result::kFound || is_itself) return;
  const WeightRows rows{one.weight.tensor, one.weight.first_row + begin, end - begin,
                        one.weight.cols};
  std::vector<OtherRows> runs;
  other_.map.Find(rows, true, runs);
  for (OtherRows& run : runs) {
    const WeightPanel mine = values.From(run.begin * rows.cols);
    run.begin += begin;
    CompareRun(one, run, mine);
  }
}

void ProductComparison::CompareRun(One& one, const OtherRows& run, const WeightPanel& values) {
  WeightPanel other = other_.weights.ReadPanel(run.rows, 0, run.rows.rows);
  const std::size_t count = static_cast<std::size_t>(run.rows.rows * run.rows.cols);
  std::vector<float> own;
  if (other_.is_rank()) {
    own.resize(count);
    other.CopyTo(own.data(), count);
    other_.KeepOwn(run.rows, values, own.data());
    other = {nullptr, own.data()};
  }
  const auto rows = static_cast<std::size_t>(run.rows.rows);
  const bool equal = AreEqual(values, other, count);
  RowBegins begins{rows, 0, 0};
  if (!equal) {
    one.differs = true;
    begins = BeginsOf(values, other, rows, static_cast<std::size_t>(run.rows.cols));
  }
  {
    const std::lock_guard lock(one.mutex);
    one.begins.Add(begins);
    if (equal && !one.bias_differs && !one.form_differs) return;
    one.Allocate();
  }
  if (one.transposed) {
    // The rows of such a weight are read together, and B may keep them in several runs only where
    // it keeps them by heads, as A reads them.
    MultiplyTransposed(one, run.rows, other);
  } else {
    MultiplyRows(one, run.begin, run.rows, other);
  }
}

void ProductComparison::MultiplyRows(One& one, std::uint64_t begin, const WeightRows& rows,
                                     const WeightPanel& values) {
  const auto cols = static_cast<std::size_t>(rows.cols);
  const std::size_t step =
      std::max<std::size_t>(1, kOutputs / std::max<std::size_t>(1, one.tokens));
  const quant::Activations in{one.other_in, one.tokens, one.in_stride};
  std::vector<float> out;
  for (std::size_t first = 0; first < rows.rows; first += step) {
    const std::size_t count = std::min(step, static_cast<std::size_t>(rows.rows) - first);
    const WeightPanel part = values.From(first * cols);
    out.resize(count * one.tokens);
    other_.weights.MultiplyValues(rows, count, part, in, out.data(), count);
    for (std::size_t row = 0; row < count; ++row) {
      const std::size_t output = static_cast<std::size_t>(begin) + first + row;
      ErrorSums sums;
      for (std::size_t token = 0; token < one.tokens; ++token) {
        float b = out[token * count + row];
        if (!one.other_bias.empty()) b += one.other_bias[output];
        if (!std::isfinite(b)) other_.weights.FailNotFinite(rows, first + row);
        sums.Add(one.out[token * one.out_stride + output], b);
      }
      one.sums[output] = sums;
      one.computed[output] = 1;
    }
  }
}

void ProductComparison::MultiplyTransposed(One& one, const WeightRows& of_other,
                                           const WeightPanel& values) {
  const std::size_t cols = one.outputs;
  const auto rows = static_cast<std::size_t>(of_other.rows);
  std::vector<float> weights(rows * cols);
  values.CopyTo(weights.data(), weights.size());
  std::vector<float> out(cols);
  for (std::size_t token = 0; token < one.tokens; ++token) {
    std::fill(out.begin(), out.end(), 0.0F);
    for (std::size_t row = 0; row < rows; ++row) {
      quant::AddScaled(one.in[token * one.in_stride + row], weights.data() + row * cols, out.data(),
                       cols);
    }
    for (std::size_t k = 0; k < cols; ++k) {
      if (!std::isfinite(out[k])) other_.weights.FailNotFinite(of_other, 0);
      one.sums[k].Add(one.out[token * one.out_stride + k], out[k]);
    }
  }
  std::fill(one.computed.begin(), one.computed.end(), char{1});
}

// Every output has its own sums over the tokens, which are added in their order: the result does
// not depend on which rows were read together.
void ProductComparison::SumUp(One& one) {
  std::vector<double> squares(one.outputs, 0);
  for (std::size_t token = 0; token < one.tokens; ++token) {
    const float* const out = one.out + token * one.out_stride;
    for (std::size_t k = 0; k < one.outputs; ++k)
      squares[k] += static_cast<double>(out[k]) * out[k];
  }
  ErrorSums all;
  for (std::size_t k = 0; k < one.outputs; ++k) {
    const bool computed = !one.computed.empty() && one.computed[k] != 0;
    all.Add(computed ? one.sums[k] : ErrorSums{0, squares[k], squares[k], squares[k]});
  }
  one.sums.assign(1, all);
}

void ProductComparison::Record(const One& one) {
  WeightComparison& comparison = comparison_;
  const OtherSide& side = other_.side;
  if (one.result == RowMap::Result::kMissing) {
    return comparison.RecordMissing(one.module, one.weight.tensor, one.order);
  }
  if (one.result == RowMap::Result::kShape) {
    comparison.RecordOf(one.module, one.weight.tensor, true, one.order, side).difference.relation =
        TensorRelation::kShape;
    return;
  }
  comparison.sums_[{one.module.module, side}].Add(one.sums.front());
  if (one.form_differs && !std::exchange(comparison.form_recorded_, true)) {
    comparison.RecordConfig(one.module.module, {kFormField}, &one.sums.front(), one.order);
  }
  if (one.differs) {
    comparison.RecordOf(one.module, one.weight.tensor, true, one.order, side)
        .begins.Add(one.begins);
  }
  if (!one.bias_differs) return;
  if ((one.bias == nullptr) != one.other_bias.empty()) {
    comparison.found_ = true;
    if (std::exchange(comparison.bias_recorded_, true)) return;
    comparison.RecordConfig(one.module.module, {"attention_bias"}, &one.sums.front(), one.order);
    return;
  }
  const std::uint32_t bias = comparison.a_.weights.Find(one.module.module + ".bias");
  comparison.RecordOf({one.module.module, one.module.layer, {bias, 0, 1, one.outputs}}, bias, false,
                      one.order, side);
}

void ProductComparison::CompareRanks(const One& one) {
  ModelWeights& weights = comparison_.a_.weights;
  std::vector<OtherSide> sides = comparison_.DifferingRanks(one.weight, true);
  if (one.bias != nullptr) {
    const NamedVector bias{one.module.module + ".bias", {one.bias, one.bias + one.outputs}};
    for (const OtherSide& side : comparison_.DifferingRanks(std::vector<NamedVector>{bias})) {
      if (std::find(sides.begin(), sides.end(), side) == sides.end()) sides.push_back(side);
    }
  }
  const std::uint64_t rows = one.weight.rows;
  const std::uint64_t step = one.transposed ? rows : weights.RowsOfPanel(one.weight);
  for (const OtherSide& side : sides) {
    ProductComparison of_rank(comparison_, one, side);
    weights.ForEach(static_cast<std::size_t>((rows + step - 1) / step), [&](std::size_t panel) {
      const std::uint64_t begin = panel * step;
      const std::uint64_t end = std::min(rows, begin + step);
      of_rank.Compare(0, begin, end, weights.ReadPanel(one.weight, begin, end));
    });
    of_rank.SumUp(*of_rank.all_.front());
    of_rank.Record(*of_rank.all_.front());
  }
}

void ProductComparison::Finish() {
  comparison_.a_.weights.ForEach(all_.size(), [&](std::size_t i) { SumUp(*all_[i]); });
  for (const std::unique_ptr<One>& one : all_) {
    if (one->tokens == 0) continue;
    Record(*one);
    if (one->result == RowMap::Result::kFound) CompareRanks(*one);
  }
}

}  // namespace dsv3::convert
