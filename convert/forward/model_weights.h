#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/forward/panel_rule.h"
#include "convert/forward/row_reader.h"
#include "convert/forward/row_values.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "quant/matmul.h"

// The weights of a model as the forward pass uses them: read when they are needed, a panel of rows
// at a time. An internal part of forward.h.
namespace dsv3::convert {

// Rows [first_row, first_row + rows) of a tensor of the model, which has `cols` columns; tensors of
// three dimensions are matrices one behind the other.
struct WeightRows {
  std::uint32_t tensor = 0;
  std::uint64_t first_row = 0;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  // Where these are some of the tensor's columns: the first of them, and how many the tensor has;
  // 0: they are all.
  std::uint64_t first_col = 0;
  std::uint64_t tensor_cols = 0;

  // Some of its rows, and some of its columns.
  WeightRows Part(std::uint64_t first, std::uint64_t count) const {
    WeightRows part = *this;
    part.first_row += first;
    part.rows = count;
    return part;
  }
  WeightRows Columns(std::uint64_t first, std::uint64_t count) const {
    return {tensor, first_row,         rows,
            count,  first_col + first, tensor_cols == 0 ? cols : tensor_cols};
  }
};

// out[t · out_stride + r] = Σ_k in[t · in_stride + k] · weight[r][k] + bias[r].
struct Product {
  WeightRows weight;
  const float* in = nullptr;
  std::size_t in_stride = 0;
  std::size_t tokens = 0;
  float* out = nullptr;
  std::size_t out_stride = 0;
  const float* bias = nullptr;  // nullptr: none
  // `in` before it was quantised; nullptr: inputs of this weight never are.
  const float* plain_in = nullptr;
};

class Ranks;
class WeightComparison;

// out[t · out_stride + k] += Σ_r in[t · in_stride + r] · weight[r][k], the rows in their order.
// `weight` is few rows: they are read whole.
struct TransposedProduct {
  WeightRows weight;
  const float* in = nullptr;
  std::size_t in_stride = 0;
  std::size_t tokens = 0;
  float* out = nullptr;
  std::size_t out_stride = 0;
};

class ModelWeights {
 public:
  // `memory_bytes` bounds the weights that are in memory; 0: kDefaultMemoryBytes. `model`,
  // `progress` and `stop` must outlive the object. Throws Error (kBadInput) for weights
  // whose values are not known.
  ModelWeights(const OpenedModel& model, WeightValues values, unsigned threads,
               std::uint64_t memory_bytes, ProgressSink& progress, const StopToken& stop);
  ~ModelWeights();
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  WeightValues values() const { return values_; }
  const Catalog& catalog() const { return model_.catalog; }
  // The prefix of the catalog's names, which the functions below do not take.
  const std::string& prefix() const { return prefix_; }
  // Errors name files with the model's directory from now on: two models may have files of one
  // name.
  void NameDirectory() { names_directory_ = true; }

  // How ranks share the model; nullptr for other models.
  const std::shared_ptr<Ranks>& ranks() const { return ranks_; }
  // The weights as a rank has them: its own copies of what several ranks hold. Of ranks only. Not
  // while a thread reads; a few calls for other ranks end them.
  ModelWeights& OfRank(std::uint32_t rank);
  // Ranks whose copies of a weight or of its scale differ from what is read, as Ranks says; empty
  // for other models.
  std::vector<std::uint32_t> DifferingRanks(std::uint32_t tensor) const;
  // Of one of these: whether layout.json says that its copy is right and the one that is read is
  // wrong.
  bool IsRightOn(std::uint32_t rank, std::uint32_t tensor) const;
  // The columns where the parts of a weight end whose products are added in their order: those of
  // the ranks.
  std::vector<std::uint64_t> ColumnEnds(const WeightRows& weight) const;

  // Compares all that is read from now on with another model; nullptr: no longer.
  void set_comparison(WeightComparison* comparison) { comparison_ = comparison; }
  WeightComparison* comparison() const { return comparison_; }

  // The tensor of this name, behind the prefix of the model's names. Throws Error (kBadInput) where
  // there is none; Has says whether there is.
  std::uint32_t Find(const std::string& name) const;
  bool Has(const std::string& name) const;

  // A whole matrix. Throws Error (kBadInput) for another shape.
  WeightRows Matrix(const std::string& name, std::uint64_t rows, std::uint64_t cols) const;
  // The same where experts lie in one tensor of three dimensions.
  WeightRows MatrixOf(const std::string& name, std::uint64_t matrix, std::uint64_t matrices,
                      std::uint64_t first_row, std::uint64_t rows, std::uint64_t all_rows,
                      std::uint64_t cols) const;
  bool IsFp8(const WeightRows& weight) const;

  // A norm or a bias. Throws Error (kBadInput) for another length, and for values that are not
  // finite.
  std::vector<float> Vector(const std::string& name, std::uint64_t length);
  // The file of an element; of ranks that of the first one that has it.
  std::string FileOf(std::uint32_t tensor, std::uint64_t row = 0, std::uint64_t col = 0) const;
  // The module that has a weight of its own: its tensor's name without prefix and ".weight".
  std::string ModuleName(const WeightRows& weight) const;
  // The same for messages.
  std::string ShownFile(std::uint32_t tensor, std::uint64_t row = 0, std::uint64_t col = 0) const;
  // Rows [begin, end) of `weight`. The thread's next panel ends the values.
  WeightPanel ReadPanel(const WeightRows& weight, std::uint64_t begin, std::uint64_t end) {
    return ReadPanel(weight, begin, end, values_);
  }
  // The same with other values of FP8 weights than those of the run.
  WeightPanel ReadPanel(const WeightRows& weight, std::uint64_t begin, std::uint64_t end,
                        WeightValues values);
  // From now on weights that are read again stay in memory, as many as there is room for in that of
  // the panels and in `more_bytes`. Not while a thread reads.
  void KeepRows(std::uint64_t more_bytes) { reader_.KeepRows(more_bytes); }
  // These weights are multiplied next, in this order: what lies on the disk is read ahead.
  void Expect(std::span<const WeightRows> weights);
  // Rows that are read at a time.
  std::uint64_t RowsOfPanel(const WeightRows& weight) const;
  // Throws Error (kBadInput): a result of the row, counted in the tensor, is not finite.
  [[noreturn]] void FailNotFinite(const WeightRows& weight, std::uint64_t row);
  // The product of rows of a weight, whose values are given, in the parts of ColumnEnds.
  void MultiplyValues(const WeightRows& weight, std::size_t rows, const WeightPanel& values,
                      const quant::Activations& in, float* out, std::size_t out_stride) const;
  // Single rows, one behind the other, such as those of the embedding.
  void ReadRows(const WeightRows& weight, std::span<const std::uint64_t> rows, float* out);

  // All products, on all threads. Throws Error (kBadInput) that names the tensor where a weight is
  // not finite.
  void Multiply(std::span<const Product> products);
  void Multiply(const Product& product) { Multiply(std::span(&product, 1)); }
  void Multiply(std::span<const TransposedProduct> products);

  // Calls task(i) for i in [0, count) on all threads. Throws what a task throws, and Error
  // (kInterrupted) where a stop was requested.
  void ForEach(std::size_t count, const std::function<void(std::size_t)>& task);

  std::uint64_t bytes_read() const;

 private:
  class Arena;
  struct Buffers;

  // With `origins` the tensors are made as these say.
  ModelWeights(const OpenedModel& model, WeightValues values, unsigned threads,
               std::uint64_t memory_bytes, ProgressSink& progress, const StopToken& stop,
               std::vector<ExpressionPtr> origins);

  void AppendPanels(const WeightRows& weight, std::vector<TensorRows>& panels) const;
  void ReadSingleRows(const WeightRows& weight, std::span<const std::uint64_t> rows, float* out);
  // Reads rows [begin, end) of `weight`, and makes BF16 values or floats of them.
  void Read(const WeightRows& weight, std::uint64_t begin, std::uint64_t end, Buffers& buffers) {
    Read(weight, begin, end, values_, buffers);
  }
  void Read(const WeightRows& weight, std::uint64_t begin, std::uint64_t end, WeightValues values,
            Buffers& buffers);
  WeightPanel MultiplyPanel(const Product& product, std::uint64_t begin, std::uint64_t end);

  const OpenedModel& model_;
  const WeightValues values_;
  const unsigned threads_;
  const std::uint64_t memory_bytes_;
  const ScaledWeights scaled_;
  const ScaleMap scales_;
  const std::string prefix_;
  const std::vector<ExpressionPtr> origins_;
  std::shared_ptr<Ranks> ranks_;
  const PanelMemory memory_;
  RowReader reader_;
  ProgressSink& progress_;
  const StopToken& stop_;
  const PanelRule panel_rule_;
  const std::unique_ptr<Arena> arena_;
  WeightComparison* comparison_ = nullptr;
  bool names_directory_ = false;
  std::optional<std::uint32_t> rank_;                    // whose weights these are
  std::vector<std::unique_ptr<ModelWeights>> of_ranks_;  // most recently used first
  std::uint64_t bytes_of_ranks_ = 0;                     // read by those that are gone
};

}  // namespace dsv3::convert
