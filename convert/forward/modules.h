#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "convert/forward/model_weights.h"
#include "convert/forward/module_outputs.h"

// The modules that all parts of a model are made of: linear layers, norms, the gated MLP. An
// internal part of forward.h. Activations are rows of floats, one row for each token.
namespace dsv3::convert {

// What activations are between modules.
enum class ActivationValues {
  kFloat,
  kBF16,      // the output of every module is rounded to BF16
  kFp8,       // the inputs of FP8 linears are quantised, per token and 128 columns
  kFp8Ue8m0,  // the same with scales that are powers of two
};

// Whether the inputs of FP8 linears are quantised.
inline bool Quantizes(ActivationValues activations) {
  return activations == ActivationValues::kFp8 || activations == ActivationValues::kFp8Ue8m0;
}

// Rows of floats.
struct Rows {
  Rows() = default;
  Rows(std::size_t rows, std::size_t columns) : values(rows * columns), width(columns) {}

  std::size_t count() const { return width == 0 ? 0 : values.size() / width; }
  float* row(std::size_t i) { return values.data() + i * width; }
  const float* row(std::size_t i) const { return values.data() + i * width; }

  std::vector<float> values;
  std::size_t width = 0;
};

// The same rows as some ranks have them, by rank.
using RowsOfRanks = std::map<std::uint32_t, Rows>;

// A linear layer; `bias` may be empty.
struct Linear {
  WeightRows weight;
  std::vector<float> bias = {};
};

// gate, up and down of down(silu(gate · x) ⊙ (up · x)).
struct GatedMlp {
  WeightRows gate;
  WeightRows up;
  WeightRows down;
};

class Modules {
 public:
  Modules(ModelWeights& weights, ActivationValues activations)
      : weights_(weights), activations_(activations) {}

  ModelWeights& weights() { return weights_; }
  ActivationValues activations() const { return activations_; }

  // Gives the outputs of modules to all of these from now on. They must outlive their use.
  void set_outputs(std::vector<ModuleOutputs*> outputs) { outputs_ = std::move(outputs); }
  // Gives them the output of a module, or some of its rows and columns; they may change it.
  void Emit(const std::string& module, Rows& out, std::uint64_t first_row = 0,
            std::uint64_t first_column = 0);

  Rows ApplyLinear(const Linear& linear, const Rows& in);
  // x · rsqrt(mean(x²) + eps) · weight for each row; columns [0, width) of rows that may be longer.
  // The weight is NAME.weight.
  Rows RmsNorm(const std::string& name, std::uint64_t width, double eps, const Rows& in);
  // (x − mean) · rsqrt(variance + eps) · weight + bias, with NAME.weight and NAME.bias.
  Rows LayerNorm(const std::string& name, double eps, const Rows& in);

  // MLPs over rows of their own: of `in` those from `firsts[i]` on, `counts[i]` of them. Returns
  // their outputs in the place of their inputs.
  struct MlpRows {
    GatedMlp mlp;
    std::size_t first = 0;
    std::size_t count = 0;
  };
  Rows ApplyMlps(std::span<const MlpRows> mlps, Rows in) {
    return RunMlps(mlps, std::move(in), "");
  }
  // One MLP, the module `name`.
  Rows ApplyMlp(const std::string& name, const GatedMlp& mlp, Rows in);

  // The input of a linear of this weight: `in`, or its quantised form in `scratch`.
  const float* InputOf(const WeightRows& weight, const float* in, std::size_t rows,
                       std::size_t width, std::vector<float>& scratch);
  // Rounds what a module gives, where activations are BF16.
  void Round(std::span<float> values);
  // to += more, and rounds.
  void Add(const Rows& more, Rows& to);

 private:
  // Emits the parts where there is a name.
  Rows RunMlps(std::span<const MlpRows> mlps, Rows in, const std::string& name);
  Rows RmsNormed(const std::vector<float>& weight, double eps, const Rows& in);
  Rows LayerNormed(const std::vector<float>& weight, const std::vector<float>& bias, double eps,
                   const Rows& in);

  ModelWeights& weights_;
  const ActivationValues activations_;
  std::vector<ModuleOutputs*> outputs_;
};

}  // namespace dsv3::convert
