#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/forward/difference.h"
#include "convert/forward/dump_file.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/module_outputs.h"
#include "formats/dtype.h"

// Compares the outputs of modules with those that another program wrote. The run goes on with the
// dump's, so each module runs on the dump's input, as far as the dump has it, and a fault shows in
// its own module alone. An internal part of forward.h.
namespace dsv3::convert {

// A module of the dump: this model's output is a, the dump's is b.
struct DumpedModule {
  std::string module;
  std::optional<std::uint64_t> layer;
  double nmse = 0;  // Σ(a − b)² / Σa²; infinite where b is not finite
  double cosine = 1;
  double max_abs = 0;
};

struct DumpReport {
  std::string file;                             // for messages
  formats::Dtype dtype = formats::Dtype::kF32;  // the coarsest of the modules'
  std::vector<DumpedModule> modules;            // in the order of execution
  std::vector<std::string> unknown;             // names of the dump that no module has
};

// The NMSE that rounding alone may give where a program works in this dtype: F32, F16 or BF16. A
// module rounds its output and what is inside it.
double DefaultMaxNmse(formats::Dtype dtype);

class DumpComparison : public ModuleOutputs {
 public:
  // `modules` are those of the run. `weights`, whose threads it uses, must outlive the object.
  // Throws Error: kBadInput where the dump has none of the modules, or a module in another shape or
  // in a dtype that is not F32, BF16 or F16; what DumpFile throws.
  DumpComparison(ModelWeights& weights, const std::filesystem::path& dump,
                 const std::vector<ModuleOutput>& modules);

  // Puts the dump's finite values in the place of the output's.
  void Take(const std::string& module, const Piece& piece) override;
  DumpReport Finish() const;

 private:
  struct Sums {
    ErrorSums errors;
    double max_abs = 0;
  };
  struct Compared {
    std::size_t tensor = 0;  // of the dump
    std::uint64_t columns = 0;
    Sums sums;
  };

  // Throws Error (kBadInput) for a tensor that is not the output of the module.
  void Check(const DumpFile::Tensor& tensor, const ModuleOutput& module) const;

  ModelWeights& weights_;
  const DumpFile dump_;
  std::vector<std::string> order_;  // modules of the dump
  std::unordered_map<std::string, Compared> compared_;
  std::vector<std::string> unknown_;
  formats::Dtype dtype_ = formats::Dtype::kF32;
};

}  // namespace dsv3::convert
