#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/model/scaled_weights.h"
#include "convert/model/tensor_match.h"
#include "convert/open/gguf_architecture.h"
#include "convert/open/open_model.h"
#include "convert/plan/expression.h"
#include "formats/gguf_type.h"

namespace dsv3::convert {

// What the weights of a GGUF file become.
struct GgufWeightTypes {
  // Of all weights but norms, the router and what is not a matrix, which are F32; a matrix whose
  // rows its blocks do not fill becomes F16.
  formats::GgufType type = formats::GgufType::kF32;
  // Weights of four bits stay what they are (FourBitGgufType).
  bool keep_4bit = false;
};

// Finds the tensors of a model and makes those of a GGUF file of them; counts what was used. Used
// by one thread. All functions throw Error (kBadInput) that names the tensor.
class GgufWeights {
 public:
  // A tensor of the file, without its name.
  struct Made {
    ExpressionPtr bytes;
    formats::GgufType type = formats::GgufType::kF32;
    formats::Shape shape;
  };

  // Refers to all arguments, which must outlive it.
  GgufWeights(const OpenedModel& model, const std::vector<ScaledWeight>& weights,
              const GgufWeightTypes& types, GgufArchitecture architecture);

  // A tensor of the model by its name without the prefix, or the codes that make it.
  std::optional<std::uint32_t> Find(const std::string& name) const;
  std::uint32_t Need(const std::string& name) const;

  // Its name with the prefix, in the spelling of the model.
  std::string NameOf(const std::string& name) const;

  // The two tensors that hold a kv_b_proj.weight in halves, and the one that holds the weight of
  // all experts, where the model has them in that form.
  std::optional<KvHalves> FindHalves(const std::string& name) const;
  std::optional<std::uint32_t> FindFused(const std::string& name) const;

  // The values of a tensor: codes times scales in F32, other floats as they are. Refused where they
  // are neither.
  ExpressionPtr ValueOf(std::uint32_t tensor);
  // The value as the file's tensor of this name.
  Made Encoded(ExpressionPtr value, std::string_view gguf_name) const;
  // The same of a whole tensor, whose codes may stay.
  Made Whole(std::uint32_t tensor, std::string_view gguf_name);
  // Whole tensors, one behind the other. Refused where they would have several types.
  Made Stacked(const std::vector<std::uint32_t>& tensors, std::string_view gguf_name);
  // A tensor as it is stored, but norms and what is not a matrix, which are F32; quantised weights
  // as Whole has them.
  Made Stored(std::uint32_t tensor, std::string_view gguf_name);
  // A tensor of integers, I64 or I32, as I32.
  Made Table(std::uint32_t tensor);
  // The value of a tensor that is cut or turned, so that its codes cannot stay. Refused where they
  // were to.
  ExpressionPtr ToBeCut(std::uint32_t tensor);

  // Counts a tensor of the model whose value is `from` where a tensor of the file has another
  // dtype.
  void Count(const Expression& from, formats::GgufType to);

  void Drop(std::uint32_t tensor) { used_[tensor] = true; }
  bool IsUsed(std::uint32_t tensor) const { return used_[tensor]; }
  // The names of the tensors that were not used and are neither scales nor zero points, all of
  // which `is_beside` must hold for: a tensor of the language model has no name in the file.
  std::vector<std::string> LeftOut(
      const std::function<bool(std::string_view name)>& is_beside) const;

  const std::string_view prefix;   // of the model's names
  std::uint64_t converted = 0;     // tensors of the model that change their dtype
  std::vector<ScaledWeight> kept;  // weights of four bits that stay

 private:
  formats::GgufType TypeFor(std::string_view gguf_name, const formats::Shape& shape) const;
  const ScaledWeight* ToKeep(std::uint32_t tensor) const;
  [[noreturn]] void Refuse(std::uint32_t tensor, std::string_view problem) const;
  [[noreturn]] void RefuseToKeep(std::uint32_t tensor, const ScaledWeight& weight) const;

  const Catalog& catalog_;
  const ModelConfig& config_;
  const ScaleMap scales_;
  const GgufWeightTypes types_;
  const GgufArchitecture architecture_;
  std::vector<bool> used_;   // by position in the catalog
  std::vector<bool> zeros_;  // those that hold zero points
};

}  // namespace dsv3::convert
