#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/glob.h"
#include "convert/model/activation_scales.h"
#include "convert/plan/expression.h"
#include "convert/recipes/bf16_to_fp8_original.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

constexpr std::uint32_t kNone = Catalog::kNone;

// The scales of activations of the original's weights, by position minus tensors_end.
std::vector<bool> AreActivationScales(const Catalog& catalog, const Original& original) {
  std::vector<bool> are(catalog.tensors().size() - catalog.tensors_end(), false);
  for (const ScaledWeight& pair : original.pairs) {
    for (const std::string& name : ActivationScaleNames(catalog.tensors()[pair.weight].name)) {
      const std::uint32_t scale = catalog.FindAppended(name);
      if (scale != kNone) are[scale - catalog.tensors_end()] = true;
    }
  }
  return are;
}

class Matcher {
 public:
  Matcher(const Catalog& catalog, const Original& original, const Bf16ToFp8Options& options)
      : catalog_(catalog),
        original_(original),
        options_(options),
        scales_(original.pairs, catalog.tensors().size()),
        is_activation_scale_(AreActivationScales(catalog, original)) {}

  TensorSelection Run() {
    for (std::uint32_t i = catalog_.tensors_end(); i < catalog_.tensors().size(); ++i) Match(i);
    for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) {
      const std::string& name = catalog_.tensors()[i].name;
      if (catalog_.FindAppended(name) != kNone) continue;
      Fail(i, "is not in the original, which has tensors of other names");
    }
    std::sort(selection_.quantized.begin(), selection_.quantized.end());
    std::sort(selection_.already_fp8.begin(), selection_.already_fp8.end());
    RequireSomething();
    CheckGlobs();
    return std::move(selection_);
  }

 private:
  void Match(std::uint32_t position) {
    const CatalogTensor& theirs = catalog_.tensors()[position];
    const std::uint32_t ours = catalog_.Find(theirs.name);
    if (const ScaledWeight* const pair = scales_.OfScale(position)) {
      if (ours != kNone) CheckScale(ours, theirs, *pair);
      return;
    }
    if (ours == kNone) {
      // fp8-to-bf16 dropped it; PlanLikeOriginal copies it from there.
      if (is_activation_scale_[position - catalog_.tensors_end()]) return;
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("--scales-from {}: tensor {} is not in the source; this is not the "
                      "original of these weights",
                      formats::ShownPath(original_.directory), QuoteForMessage(theirs.name)),
          {"", theirs.name});
    }
    const CatalogTensor& tensor = catalog_.tensors()[ours];
    const ScaledWeight* const pair = scales_.OfWeight(position);
    if (pair == nullptr || tensor.dtype == theirs.dtype) {
      RequireEqual(ours, theirs);
      if (pair == nullptr) return;
      const std::string& scale = catalog_.tensors()[pair->scale].name;
      if (catalog_.Find(scale) == kNone) {
        Fail(ours, fmt::format("is FP8 already, but there is no scale {}; without it the weight "
                               "means nothing",
                               QuoteForMessage(scale)));
      }
      selection_.already_fp8.push_back(ours);
      return;
    }
    if (tensor.dtype != Dtype::kBF16) {
      Fail(ours, fmt::format("is {}, expected BF16: whether a block is as in the original is known "
                             "by its BF16 bits; quantise without --scales-from",
                             formats::DtypeName(tensor.dtype)));
    }
    RequireShape(ours, theirs);
    if (tensor.extent.length == 0) Fail(ours, "has no elements to quantise");
    selection_.quantized.push_back(ours);
  }

  // The source has a scale only beside a weight that is FP8 still.
  void CheckScale(std::uint32_t ours, const CatalogTensor& theirs, const ScaledWeight& pair) const {
    const CatalogTensor& weight = catalog_.tensors()[pair.weight];
    const std::uint32_t source = catalog_.Find(weight.name);
    if (source != kNone && catalog_.tensors()[source].dtype != weight.dtype) {
      Fail(ours, fmt::format("is a scale, but its weight {} is {} and not FP8; was the checkpoint "
                             "converted in part? Convert it again from its source",
                             QuoteForMessage(weight.name),
                             formats::DtypeName(catalog_.tensors()[source].dtype)));
    }
    RequireEqual(ours, theirs);
  }

  void RequireEqual(std::uint32_t ours, const CatalogTensor& theirs) const {
    const CatalogTensor& tensor = catalog_.tensors()[ours];
    if (tensor.dtype != theirs.dtype) {
      Fail(ours, fmt::format("is {}, expected {} as in the original",
                             formats::DtypeName(tensor.dtype), formats::DtypeName(theirs.dtype)));
    }
    RequireShape(ours, theirs);
  }

  void RequireShape(std::uint32_t ours, const CatalogTensor& theirs) const {
    const CatalogTensor& tensor = catalog_.tensors()[ours];
    if (tensor.shape == theirs.shape) return;
    Fail(ours,
         fmt::format("has shape {}, expected {} as in the original",
                     formats::ShapeToString(tensor.shape), formats::ShapeToString(theirs.shape)));
  }

  [[noreturn]] void Fail(std::uint32_t ours, const std::string& problem) const {
    FailUnlikeOriginal(catalog_, ours, problem, original_);
  }

  void RequireSomething() const {
    if (!selection_.quantized.empty()) return;
    Fail(selection_.already_fp8.at(0),
         "is F8_E4M3: this is an FP8 checkpoint already, and no tensor is left to quantise");
  }

  // Globs may name what is so in the original all the same.
  void CheckGlobs() const {
    std::vector<bool> quantized(catalog_.tensors_end(), false);
    for (const std::uint32_t i : selection_.quantized) quantized[i] = true;
    const auto check = [&](const char* option, const std::string& glob, bool wanted) {
      bool matched = false;
      for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) {
        const std::string& name = catalog_.tensors()[i].name;
        if (!MatchesGlob(glob, name)) continue;
        matched = true;
        if (quantized[i] == wanted) continue;
        throw Error(
            ErrorCode::kUsage,
            fmt::format("{} {} contradicts --scales-from {}, where tensor {} is {}FP8; the "
                        "set of quantised tensors comes from there",
                        option, QuoteForMessage(glob), formats::ShownPath(original_.directory),
                        QuoteForMessage(name), wanted ? "not " : ""));
      }
      if (matched || !wanted) return;
      throw Error(ErrorCode::kUsage, fmt::format("{} {}: no tensor has a name like this", option,
                                                 QuoteForMessage(glob)));
    };
    for (const std::string& glob : options_.include) check("--include", glob, true);
    for (const std::string& glob : options_.exclude) check("--exclude", glob, false);
  }

  const Catalog& catalog_;
  const Original& original_;
  const Bf16ToFp8Options& options_;
  const ScaleMap scales_;  // of the original
  const std::vector<bool> is_activation_scale_;
  TensorSelection selection_;
};

QuantizedWeight DescribeLike(const Catalog& catalog, std::uint32_t weight, const ScaledWeight& pair,
                             const Fp8Form& form, const Bf16ToFp8Options& options) {
  QuantizedWeight described;
  described.weight = weight;
  described.matrices = pair.matrices;
  described.rows = pair.rows;
  described.cols = pair.cols;
  described.format = {form.recipe, form.scale_fmt, pair.block, OwnFormatOf(pair)};
  described.nonfinite = options.nonfinite;
  described.scale_shape = catalog.tensors()[pair.scale].shape;
  described.scale_dtype = catalog.tensors()[pair.scale].dtype;
  described.original = {pair.weight, pair.scale};
  return described;
}

}  // namespace

TensorSelection SelectLikeOriginal(const Catalog& catalog, const Original& original,
                                   const Bf16ToFp8Options& options) {
  return Matcher(catalog, original, options).Run();
}

Bf16ToFp8Plan PlanLikeOriginal(const Catalog& catalog, const TensorSelection& selection,
                               const Original& original, const Bf16ToFp8Options& options) {
  Bf16ToFp8Plan result;
  Plan& plan = result.plan;
  plan.recipe = kBf16ToFp8;
  plan.options = OptionsForManifest(original.form, options);
  const std::vector<bool> is_activation_scale = AreActivationScales(catalog, original);
  std::vector<bool> is_quantized(catalog.tensors_end(), false);
  for (const std::uint32_t i : selection.quantized) is_quantized[i] = true;

  // A weight and its scale may stand in different files of the original, where evaluating the one
  // cannot make the other: then the scale is found before.
  std::vector<std::size_t> file_of(catalog.tensors().size() - catalog.tensors_end(), 0);
  for (std::size_t i = 0; i < original.shards.size(); ++i) {
    for (const formats::SafetensorsTensor& entry : original.shards[i].header.tensors) {
      file_of[catalog.FindAppended(entry.name) - catalog.tensors_end()] = i;
    }
  }
  std::vector<NamedExpressions> files(original.shards.size());
  for (const ScaledWeight& pair : original.pairs) {
    const std::string& name = catalog.tensors()[pair.weight].name;
    const std::uint32_t ours = catalog.Find(name);
    if (!is_quantized[ours]) continue;
    const std::size_t file = file_of[pair.weight - catalog.tensors_end()];
    const std::size_t scale_file = file_of[pair.scale - catalog.tensors_end()];
    const QuantizedWeight weight = DescribeLike(catalog, ours, pair, original.form, options);
    QuantizeExpressions made;
    if (file != scale_file || NeedsTwoPasses(weight)) {
      auto first_pass = std::make_shared<FirstPass>(catalog, weight);
      made = Quantize(catalog, first_pass);
      result.passes.push_back({{file, scale_file}, std::move(first_pass)});
    } else {
      made = Quantize(catalog, weight);
    }
    files[file].emplace_back(name, std::move(made.codes));
    files[scale_file].emplace_back(catalog.tensors()[pair.scale].name, std::move(made.scale));
  }
  // The rest of the source: what is FP8 still, scales included, and what never was.
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    if (is_quantized[i]) continue;
    const std::string& name = catalog.tensors()[i].name;
    files[file_of[catalog.FindAppended(name) - catalog.tensors_end()]].emplace_back(
        name, Copy(catalog, i));
  }
  // The scales of activations, which the source does not have where it was made by fp8-to-bf16.
  for (std::uint32_t i = catalog.tensors_end(); i < catalog.tensors().size(); ++i) {
    const std::string& name = catalog.tensors()[i].name;
    const std::size_t index = i - catalog.tensors_end();
    if (!is_activation_scale[index] || catalog.Find(name) != kNone) continue;
    files[file_of[index]].emplace_back(name, Copy(catalog, i));
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    const OriginalShard& shard = original.shards[i];
    plan.files.push_back(
        PlanFileLike(shard.name, shard.header_bytes, shard.header, std::move(files[i])));
  }
  plan.index = original.index;
  if (plan.index.empty() && original.needs_index) plan.index = PlanIndex(plan);
  return result;
}

}  // namespace dsv3::convert
