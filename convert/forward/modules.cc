#include "convert/forward/modules.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "convert/forward/weight_comparison.h"
#include "quant/activations.h"
#include "quant/elementwise.h"

namespace dsv3::convert {

void Modules::Emit(const std::string& module, Rows& out, std::uint64_t first_row,
                   std::uint64_t first_column) {
  for (ModuleOutputs* const each : outputs_) {
    each->Take(module, {first_row, first_column, out.values.data(), out.count(), out.width});
  }
}

const float* Modules::InputOf(const WeightRows& weight, const float* in, std::size_t rows,
                              std::size_t width, std::vector<float>& scratch) {
  if (!Quantizes(activations_) || !weights_.IsFp8(weight)) return in;
  scratch.resize(rows * width);
  const std::vector<std::uint64_t> ends = weights_.ColumnEnds(weight);
  weights_.ForEach(rows, [&](std::size_t i) {
    const std::span<float> row(scratch.data() + i * width, width);
    std::copy_n(in + i * width, width, row.data());
    std::vector<float> scales((width + quant::kActivationGroup - 1) / quant::kActivationGroup);
    // A rank quantises its own columns.
    std::size_t begin = 0;
    for (const std::uint64_t end : ends) {
      const std::span<float> part = row.subspan(begin, static_cast<std::size_t>(end) - begin);
      quant::QuantizeActivations(part, activations_ == ActivationValues::kFp8Ue8m0, scales.data());
      for (std::size_t k = 0; k < part.size(); ++k) part[k] *= scales[k / quant::kActivationGroup];
      begin = static_cast<std::size_t>(end);
    }
  });
  return scratch.data();
}

void Modules::Round(std::span<float> values) {
  if (activations_ == ActivationValues::kBF16) quant::RoundToBF16(values);
}

void Modules::Add(const Rows& more, Rows& to) {
  for (std::size_t i = 0; i < to.values.size(); ++i) to.values[i] += more.values[i];
  Round(to.values);
}

Rows Modules::ApplyLinear(const Linear& linear, const Rows& in) {
  Rows out(in.count(), linear.weight.rows);
  std::vector<float> scratch;
  const float* const input =
      InputOf(linear.weight, in.values.data(), in.count(), in.width, scratch);
  weights_.Multiply(Product{linear.weight, input, in.width, in.count(), out.values.data(),
                            out.width, linear.bias.empty() ? nullptr : linear.bias.data(),
                            in.values.data()});
  Round(out.values);
  if (!outputs_.empty()) Emit(weights_.ModuleName(linear.weight), out);
  return out;
}

Rows Modules::RmsNorm(const std::string& name, std::uint64_t width, double eps, const Rows& in) {
  const std::vector<float> weight = weights_.Vector(name + ".weight", width);
  Rows out = RmsNormed(weight, eps, in);
  if (WeightComparison* const comparison = weights_.comparison()) {
    comparison->CompareNorm(name, {{name + ".weight", weight}}, eps, out,
                            [&](const std::vector<NamedVector>& other, double other_eps) {
                              return RmsNormed(other[0].values, other_eps, in);
                            });
  }
  Emit(name, out);
  return out;
}

Rows Modules::LayerNorm(const std::string& name, double eps, const Rows& in) {
  const std::vector<float> weight = weights_.Vector(name + ".weight", in.width);
  const std::vector<float> bias = weights_.Vector(name + ".bias", in.width);
  Rows out = LayerNormed(weight, bias, eps, in);
  if (WeightComparison* const comparison = weights_.comparison()) {
    comparison->CompareNorm(name, {{name + ".weight", weight}, {name + ".bias", bias}}, eps, out,
                            [&](const std::vector<NamedVector>& other, double other_eps) {
                              return LayerNormed(other[0].values, other[1].values, other_eps, in);
                            });
  }
  Emit(name, out);
  return out;
}

Rows Modules::RmsNormed(const std::vector<float>& weight, double eps, const Rows& in) {
  const std::size_t width = weight.size();
  Rows out(in.count(), width);
  weights_.ForEach(in.count(), [&](std::size_t i) {
    const float* const row = in.row(i);
    double squares = 0;
    for (std::size_t k = 0; k < width; ++k) squares += static_cast<double>(row[k]) * row[k];
    const auto factor =
        static_cast<float>(1 / std::sqrt(squares / static_cast<double>(width) + eps));
    const std::span<float> result(out.row(i), width);
    for (std::size_t k = 0; k < width; ++k) result[k] = row[k] * factor;
    Round(result);
    for (std::size_t k = 0; k < width; ++k) result[k] *= weight[k];
    Round(result);
  });
  return out;
}

Rows Modules::LayerNormed(const std::vector<float>& weight, const std::vector<float>& bias,
                          double eps, const Rows& in) {
  Rows out(in.count(), in.width);
  weights_.ForEach(in.count(), [&](std::size_t i) {
    const float* const row = in.row(i);
    const auto size = static_cast<double>(in.width);
    double sum = 0;
    for (std::size_t k = 0; k < in.width; ++k) sum += row[k];
    const double mean = sum / size;
    double squares = 0;
    for (std::size_t k = 0; k < in.width; ++k) squares += (row[k] - mean) * (row[k] - mean);
    const double factor = 1 / std::sqrt(squares / size + eps);
    for (std::size_t k = 0; k < in.width; ++k) {
      out.row(i)[k] = static_cast<float>((row[k] - mean) * factor) * weight[k] + bias[k];
    }
    Round({out.row(i), in.width});
  });
  return out;
}

Rows Modules::RunMlps(std::span<const MlpRows> mlps, Rows in, const std::string& name) {
  if (mlps.empty()) return in;
  const std::size_t inner = mlps.front().mlp.gate.rows;
  Rows gate(in.count(), inner);
  Rows up(in.count(), inner);
  std::vector<float> scratch;
  // All of them are of one form.
  const float* const input =
      InputOf(mlps.front().mlp.gate, in.values.data(), in.count(), in.width, scratch);
  std::vector<Product> products;
  for (const MlpRows& one : mlps) {
    const float* const rows = input + one.first * in.width;
    const float* const plain = in.row(one.first);
    products.push_back(
        {one.mlp.gate, rows, in.width, one.count, gate.row(one.first), inner, nullptr, plain});
    products.push_back(
        {one.mlp.up, rows, in.width, one.count, up.row(one.first), inner, nullptr, plain});
  }
  weights_.Multiply(products);
  Round(gate.values);
  Round(up.values);
  if (!name.empty()) {
    Emit(name + ".gate_proj", gate);
    Emit(name + ".up_proj", up);
  }
  weights_.ForEach(gate.count(), [&](std::size_t i) {
    quant::SiluProduct(gate.row(i), up.row(i), gate.row(i), inner);
  });
  Round(gate.values);
  const float* const hidden =
      InputOf(mlps.front().mlp.down, gate.values.data(), gate.count(), inner, scratch);
  products.clear();
  for (const MlpRows& one : mlps) {
    products.push_back({one.mlp.down, hidden + one.first * inner, inner, one.count,
                        in.row(one.first), in.width, nullptr, gate.row(one.first)});
  }
  weights_.Multiply(products);
  Round(in.values);
  return in;
}

Rows Modules::ApplyMlp(const std::string& name, const GatedMlp& mlp, Rows in) {
  const MlpRows all{mlp, 0, in.count()};
  Rows out = RunMlps(std::span(&all, 1), std::move(in), name);
  Emit(name + ".down_proj", out);
  Emit(name, out);
  return out;
}

}  // namespace dsv3::convert
