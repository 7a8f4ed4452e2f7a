#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/model/module_list.h"
#include "convert/recipes/reshard_job.h"
#include "tests/convert/support/reshard.h"

// A small forward pass of a DeepSeek-V3 model over one token, in double, made by ranks from nothing
// but their own files, or by the whole model. Column-parallel products stand side by side,
// row-parallel ones are added over the ranks, and each expert counts once. What lies between the
// two (heads, activations) works on a rank's own part, so gate, up and down, or queries, keys,
// values and output, must be cut alike.
namespace dsv3::testing {

using Vector = std::vector<double>;

// The weights of one rank, or of all the model.
class Weights {
 public:
  // `rounded` names modules whose FP8 weights count as the BF16 that they become.
  Weights(std::map<std::string, HeldTensor> tensors, const convert::ModelConfig& config,
          const convert::ModuleList& rounded);

  bool Has(const std::string& name) const { return tensors_.contains(name); }
  std::uint64_t Rows(const std::string& name) const { return tensors_.at(name).shape.at(0); }
  // Of a matrix; a vector is one row.
  Vector Row(const std::string& name, std::uint64_t row) const;
  Vector Multiply(const std::string& name, const Vector& x) const;

 private:
  // `scales` of FP8 weights alone; `rounds`: they count as BF16.
  struct Matrix {
    const HeldTensor& weight;
    std::uint64_t cols = 0;
    const HeldTensor* scales = nullptr;
    bool rounds = false;
  };
  Matrix Find(const std::string& name) const;
  void Decode(const Matrix& matrix, std::uint64_t row, Vector& values) const;

  std::map<std::string, HeldTensor> tensors_;
  const convert::ModuleList& rounded_;
  quant::BlockShape block_;
  std::array<float, 256> codes_{};
};

using Group = std::vector<const Weights*>;

// Who makes which product.
class Deployment {
 public:
  virtual ~Deployment() = default;
  // The group that divides a module of a layer; `first` is one of its weights.
  virtual Group Of(convert::ModuleKind kind, std::uint64_t layer,
                   const std::string& first) const = 0;
};

class WholeDeployment final : public Deployment {
 public:
  explicit WholeDeployment(const Weights& whole) : whole_(whole) {}
  Group Of(convert::ModuleKind, std::uint64_t, const std::string&) const override {
    return {&whole_};
  }

 private:
  const Weights& whole_;
};

// Layers take turns among the groups that hold the same parts.
class RankDeployment final : public Deployment {
 public:
  RankDeployment(const std::vector<std::unique_ptr<Weights>>& ranks,
                 const convert::ReshardReport& report)
      : ranks_(ranks), report_(report) {}
  Group Of(convert::ModuleKind kind, std::uint64_t layer, const std::string& first) const override;

 private:
  std::uint64_t WaysOf(convert::ModuleKind kind) const;
  bool IsReplicated(const std::string& weight) const;

  const std::vector<std::unique_ptr<Weights>>& ranks_;
  const convert::ReshardReport& report_;
};

// The logits of the main model, then those of each MTP layer.
std::vector<Vector> RunForward(const Deployment& deployment, const convert::ModelConfig& config,
                               std::uint64_t token);

}  // namespace dsv3::testing
