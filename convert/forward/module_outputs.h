#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "convert/forward/attention_form.h"
#include "convert/model/model_config.h"

// The outputs of modules, as forward hooks of PyTorch see them in transformers. An internal part of
// forward.h.
namespace dsv3::convert {

// The output of one module for all tokens: a matrix of floats, a row for each token.
struct ModuleOutput {
  std::string module;  // "model.layers.3.self_attn.kv_a_layernorm"
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
};

// The outputs that a run has, in the order in which modules end: so a module is behind its parts.
// Rows of the first MTP layer are in it where `mtp_tokens` is not 0. Single experts are not in it,
// for their rows depend on the router; mlp.experts has the weighted sum of a layer's.
std::vector<ModuleOutput> ListModuleOutputs(const ModelConfig& config, AttentionForm form,
                                            std::uint64_t tokens, std::uint64_t mtp_tokens);

// Takes outputs while the model runs, from one thread. The run goes on with what it leaves of them.
class ModuleOutputs {
 public:
  virtual ~ModuleOutputs() = default;

  // Some of a module's output: `rows` rows from `first_row` on, of which `values` has the columns
  // from `first_column` on, `columns` of each.
  struct Piece {
    std::uint64_t first_row = 0;
    std::uint64_t first_column = 0;
    float* values = nullptr;
    std::size_t rows = 0;
    std::size_t columns = 0;

    float* row(std::size_t i) const { return values + i * columns; }
  };
  virtual void Take(const std::string& module, const Piece& piece) = 0;
};

}  // namespace dsv3::convert
