#include "convert/recipes/restore.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/model/code_names.h"
#include "convert/plan/restore_expression.h"
#include "convert/recipes/dequantize.h"
#include "convert/recipes/quantize.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

class Restorer {
 public:
  Restorer(const Catalog& catalog, const QuantizedOriginal& original)
      : catalog_(catalog),
        original_(original),
        weights_(original.weights, catalog.tensors().size()),
        is_taken_(catalog.tensors_end(), false) {}

  Plan Run() {
    Plan plan;
    plan.recipe = kQuantize;
    plan.options = {FlagOption("scales_from", true)};
    for (const OriginalShard& shard : original_.shards) {
      NamedExpressions tensors;
      for (const formats::SafetensorsTensor& entry : shard.header.tensors) {
        tensors.emplace_back(entry.name, Make(catalog_.FindAppended(entry.name)));
      }
      plan.files.push_back(
          PlanFileLike(shard.name, shard.header_bytes, shard.header, std::move(tensors)));
    }
    for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) {
      if (!is_taken_[i]) Fail(i, "is not in the original, which has tensors of other names");
    }
    plan.index = original_.index;
    if (plan.index.empty() && original_.needs_index) plan.index = PlanIndex(plan);
    return plan;
  }

 private:
  ExpressionPtr Make(std::uint32_t position) {
    const CatalogTensor& theirs = catalog_.tensors()[position];
    if (const ScaledWeight* const weight = weights_.OfWeight(position)) {
      const std::uint32_t ours = Take(WeightOfCodes(theirs.name), theirs);
      Require(ours, formats::Dtype::kBF16, ShapeOfValues(theirs, weight));
      return Restore(catalog_, ours, *weight);
    }
    // What is beside codes is in the original alone.
    if (catalog_.Find(theirs.name) == Catalog::kNone && IsBesideCodes(position)) {
      return Copy(catalog_, position);
    }
    const std::uint32_t ours = Take(theirs.name, theirs);
    Require(ours, theirs.dtype, theirs.shape);
    return Copy(catalog_, ours);
  }

  bool IsBesideCodes(std::uint32_t position) const {
    if (weights_.OfScale(position) != nullptr) return true;
    return std::binary_search(original_.beside.begin(), original_.beside.end(), position);
  }

  std::uint32_t Take(const std::string& name, const CatalogTensor& theirs) {
    const std::uint32_t ours = catalog_.Find(name);
    if (ours == Catalog::kNone) {
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("--scales-from {}: tensor {} is not in the source; this is not the "
                      "original of these weights",
                      formats::ShownPath(original_.directory), QuoteForMessage(theirs.name)),
          {"", theirs.name});
    }
    is_taken_[ours] = true;
    return ours;
  }

  void Require(std::uint32_t ours, formats::Dtype dtype, const formats::Shape& shape) const {
    const CatalogTensor& tensor = catalog_.tensors()[ours];
    if (tensor.dtype == dtype && tensor.shape == shape) return;
    Fail(ours, fmt::format("is {} {}, expected {} {} as in the original",
                           formats::DtypeName(tensor.dtype), formats::ShapeToString(tensor.shape),
                           formats::DtypeName(dtype), formats::ShapeToString(shape)));
  }

  [[noreturn]] void Fail(std::uint32_t ours, const std::string& problem) const {
    FailUnlikeOriginal(catalog_, ours, problem, original_);
  }

  const Catalog& catalog_;
  const QuantizedOriginal& original_;
  const ScaleMap weights_;
  std::vector<bool> is_taken_;  // tensors of the source
};

}  // namespace

QuantizedOriginal OpenQuantizedOriginal(const std::filesystem::path& directory,
                                        const std::filesystem::path& base,
                                        const std::filesystem::path& output, Catalog& catalog) {
  QuantizedModel found;
  const std::uint32_t first = catalog.tensors_end();
  OriginalFiles files = OpenOriginalFiles(
      directory, base, output,
      [&](const OpenedModel& model) { found = FindQuantizedModel(model.catalog, model.config); },
      catalog);
  QuantizedOriginal original;
  static_cast<OriginalFiles&>(original) = std::move(files);
  original.weights = std::move(found.weights);
  for (ScaledWeight& weight : original.weights) {
    for (std::uint32_t* const part :
         {&weight.weight, &weight.scale, &weight.tensor_scale, &weight.zeros}) {
      if (*part != Catalog::kNone) *part += first;
    }
  }
  original.beside = std::move(found.dropped);
  for (std::uint32_t& position : original.beside) position += first;
  for (const ScaledWeight& weight : original.weights) {
    if (weight.zeros != Catalog::kNone) original.beside.push_back(weight.zeros);
  }
  std::sort(original.beside.begin(), original.beside.end());
  return original;
}

Plan PlanRestore(const Catalog& catalog, const QuantizedOriginal& original) {
  return Restorer(catalog, original).Run();
}

}  // namespace dsv3::convert
