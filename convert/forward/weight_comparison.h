#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "convert/forward/difference.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/module_rows.h"
#include "convert/forward/modules.h"
#include "convert/forward/other_weights.h"
#include "convert/forward/router.h"
#include "convert/model/forward_config.h"
#include "convert/model/model_config.h"

// Compares the weights that one model, A, reads for its forward pass with the same weights of
// another, B, and runs B's module on A's input where they differ. So a difference is found where it
// is, and nowhere behind it. An internal part of forward.h.
namespace dsv3::convert {

struct ComparedModel {
  const ModelConfig& config;
  const ForwardConfig& forward;
  ModelWeights& weights;
};

// A norm's weight or bias.
struct NamedVector {
  std::string name;
  std::vector<float> values;
};

// A number by which equal values are recognised; zeros of either sign are equal.
std::uint64_t HashOf(const WeightPanel& values, std::size_t count);

// How many rows of two matrices were seen, and a sum over the beginnings of the rows of each that
// does not depend on their order: where all rows were seen and the sums differ, the rows of the one
// are not those of the other in another order.
struct RowBegins {
  std::uint64_t rows = 0;
  std::uint64_t a = 0;
  std::uint64_t b = 0;

  void Add(const RowBegins& other) {
    rows += other.rows;
    a += other.a;
    b += other.b;
  }
};

class WeightComparison {
 public:
  // Of a linear layer, a norm or an embedding; for kConfig with the fields.
  struct Record {
    std::uint64_t order = 0;
    ModuleDifference difference;
    ErrorSums sums;
    bool has_sums = false;
    bool is_product = false;
    WeightRows rows = {};  // of A; not for kConfig
    OtherSide side = {};
    RowBegins begins = {};
    // Of the other model: the rank whose part alone is meant; nothing: all.
    std::optional<std::uint32_t> rank = {};
    bool turned = false;  // whether the relation is that of A's tensor to the other's
  };

  // The models must outlive the object. Both quantise the inputs of their own FP8 linears as
  // `activations` says.
  WeightComparison(const ComparedModel& a, const ComparedModel& b, ActivationValues activations);
  // Of ranks alone: compares their copies with each other.
  explicit WeightComparison(const ComparedModel& a);

  const ComparedModel& a() const { return a_; }
  const ComparedModel& b() const { return b_; }
  // Whether there is another model.
  bool has_other() const { return has_other_; }
  OtherWeights Other(const OtherSide& side) const;

  // Single rows that A looked up.
  void CompareRows(const WeightRows& weight, std::span<const std::uint64_t> rows, const float* out);

  // A norm of A: its vectors, and what it gave. `run` runs it with vectors in their place.
  using RunNorm = std::function<Rows(const std::vector<NamedVector>&, double eps)>;
  void CompareNorm(const std::string& module, const std::vector<NamedVector>& vectors, double eps,
                   const Rows& out, const RunNorm& run);

  // The choice of experts by A's logits: the bias of the choice and the fields of the router. The
  // output is the weight of every expert, 0 for those that were not chosen.
  void CompareChoices(const std::string& module, const Rows& logits, const std::vector<float>& bias,
                      const std::vector<ExpertChoice>& choices);

  // Fields of the attention that differ, without those of its biases; empty: none, or they were
  // recorded. `RecordAttention` has B's output on A's input, where the shapes allow it.
  const std::vector<std::string>& attention_fields() const { return attention_fields_; }
  bool attention_fits() const;
  void RecordAttention(const std::string& module, const Rows* a, const Rows* b);

  // Whether a difference was found since the last call.
  bool TakeFound() { return std::exchange(found_, false); }

  // In the order of execution.
  std::vector<Record> Records() const;

 private:
  friend class ProductComparison;

  // The record of a module's tensor; made where there is none.
  Record& RecordOf(const ModuleRows& module, std::uint32_t tensor, bool is_product,
                   std::uint64_t order, const OtherSide& side);
  // The ranks of both models whose copies of A's rows differ from what is read.
  std::vector<OtherSide> DifferingRanks(const WeightRows& rows, bool is_product) const;
  std::vector<OtherSide> DifferingRanks(const std::vector<NamedVector>& vectors) const;
  void RecordConfig(const std::string& module, std::vector<std::string> fields,
                    const ErrorSums* sums, std::uint64_t order);
  // B lacks the tensor: throws Error (kBadInput), or where the configs say other modules, records
  // the fields.
  void RecordMissing(const ModuleRows& module, std::uint32_t tensor, std::uint64_t order);
  // The vector of the other weights; empty where they have none, or one of another length, which
  // is recorded.
  std::vector<float> OtherVector(const std::string& module, const NamedVector& mine,
                                 std::uint64_t order, const OtherSide& side);
  void CompareRowsWith(const OtherSide& side, const ModuleRows& module, const WeightRows& weight,
                       std::span<const std::uint64_t> rows, const float* out, std::uint64_t order);
  void CompareNormWith(const OtherSide& side, const std::string& module,
                       const std::vector<NamedVector>& vectors, double eps, const Rows& out,
                       const RunNorm& run, std::uint64_t order);
  void CompareBiasWith(const OtherSide& side, const std::string& module, const NamedVector& bias,
                       const std::function<ErrorSums(const std::vector<float>&)>& run,
                       std::uint64_t order);

  const ComparedModel a_;
  const ComparedModel b_;  // A itself where there is no other
  const bool has_other_;
  const RowMap map_;
  const RowMap to_itself_;
  const ActivationValues activations_;
  std::vector<std::string> structure_fields_;
  std::vector<std::string> attention_fields_;
  std::vector<std::string> router_fields_;
  bool eps_recorded_ = false;
  bool bias_recorded_ = false;
  bool form_recorded_ = false;
  bool structure_recorded_ = false;
  bool found_ = false;
  std::uint64_t next_order_ = 0;
  std::map<std::tuple<std::string, std::string, OtherSide>, Record> records_;  // module, tensor
  // Of all modules, by name.
  std::map<std::pair<std::string, OtherSide>, ErrorSums> sums_;
};

}  // namespace dsv3::convert
