#include "convert/recipes/bf16_to_fp8_original.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/open/open_model.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

[[noreturn]] void Fail(const Original& original, const std::string& problem,
                       const ErrorPlace& place) {
  throw Error(ErrorCode::kBadInput, OriginalPrefix(original.directory) + problem, place);
}

[[noreturn]] void Contradicts(const Original& original, std::string_view option,
                              const std::string& has) {
  throw Error(ErrorCode::kUsage,
              fmt::format("{} contradicts --scales-from {}, which {}; leave the option out, or "
                          "quantise without --scales-from",
                          option, formats::ShownPath(original.directory), has));
}

// Finds the pairs, by positions in the original's own catalog.
void FindPairs(const OpenedModel& model, Original& original) {
  if (std::none_of(model.catalog.tensors().begin(), model.catalog.tensors().end(),
                   [](const CatalogTensor& tensor) {
                     return tensor.dtype == Dtype::kF8E4M3 || tensor.dtype == Dtype::kF8E5M2;
                   })) {
    throw Error(ErrorCode::kBadInput,
                "this is not an FP8 checkpoint: not one of its tensors is FP8; name the checkpoint "
                "that IN was made from");
  }
  original.pairs = PairScales(model.catalog, model.config);
}

// How the scale of this weight is called.
std::optional<ScaleNaming> NamingOf(const std::string& weight, const std::string& scale) {
  for (const ScaleNaming naming : kScaleNamings) {
    if (ScaleNameOf(weight, naming) == scale) return naming;
  }
  return std::nullopt;
}

QuantizeBlock BlockOf(const Original& original) {
  const ScaledWeight& first = original.pairs[0];
  if (original.config.quantization && original.config.quantization->weight_block_size) {
    return {quant::BlockForm::kBlock, *original.config.quantization->weight_block_size};
  }
  if (first.block == quant::BlockShape{first.rows, first.cols}) {
    return {quant::BlockForm::kTensor, {}};
  }
  if (first.block == quant::BlockShape{1, first.cols}) return {quant::BlockForm::kRow, {}};
  return {quant::BlockForm::kBlock, first.block};
}

quant::BlockShape BlockFor(const QuantizeBlock& block, const ScaledWeight& pair) {
  switch (block.form) {
    case quant::BlockForm::kRow:
      return {1, pair.cols};
    case quant::BlockForm::kTensor:
      return {pair.rows, pair.cols};
    case quant::BlockForm::kBlock:
      break;
  }
  return block.shape;
}

Fp8Form FormOf(const Catalog& catalog, const Original& original, const Bf16ToFp8Options& options) {
  const ScaledWeight& first = original.pairs[0];
  const auto tensor = [&](std::uint32_t position) -> const CatalogTensor& {
    return catalog.tensors()[position];
  };
  Fp8Form form;
  form.naming = NamingOf(tensor(first.weight).name, tensor(first.scale).name)
                    .value_or(ScaleNaming::kScaleInv);
  form.block = BlockOf(original);
  if (first.scale_format == quant::ScaleFormat::kE8M0) {
    form.scale_fmt = quant::ScaleFmt::kE8M0;
  } else if (original.config.quantization && original.config.quantization->scale_fmt == "ue8m0") {
    form.scale_fmt = quant::ScaleFmt::kUe8m0;
  }
  const bool has_half_scales = first.scale_format == quant::ScaleFormat::kBF16 ||
                               first.scale_format == quant::ScaleFormat::kF16;
  form.recipe = options.recipe.value_or(has_half_scales ? quant::QuantizeRecipe::kLlmCompressor
                                                        : quant::QuantizeRecipe::kDeepSeek);
  // What edited blocks get must be what is there.
  for (const ScaledWeight& pair : original.pairs) {
    const CatalogTensor& scale = tensor(pair.scale);
    if (pair.format != quant::CodeFormat::kE4M3) {
      Fail(original,
           fmt::format("tensor {} is {}, expected F8_E4M3, which alone is written here",
                       QuoteForMessage(tensor(pair.weight).name),
                       formats::DtypeName(tensor(pair.weight).dtype)),
           {"", tensor(pair.weight).name});
    }
    if (pair.scale_format != first.scale_format) {
      Fail(original,
           fmt::format("scale {} is {}, expected {} like scale {}; scales of several dtypes in one "
                       "checkpoint are not written here",
                       QuoteForMessage(scale.name), formats::DtypeName(scale.dtype),
                       formats::DtypeName(tensor(first.scale).dtype),
                       QuoteForMessage(tensor(first.scale).name)),
           {"", scale.name});
    }
    if (options.block && BlockFor(*options.block, pair) != pair.block) {
      Contradicts(original, "--block " + BlockName(*options.block),
                  fmt::format("has blocks of {}x{} in tensor {}", pair.block.rows, pair.block.cols,
                              QuoteForMessage(tensor(pair.weight).name)));
    }
    if (options.scale_name &&
        ScaleNameOf(tensor(pair.weight).name, *options.scale_name) != scale.name) {
      Contradicts(original, fmt::format("--scale-name {}", ScaleNamingName(*options.scale_name)),
                  fmt::format("has scale {}", QuoteForMessage(scale.name)));
    }
  }
  if (options.scale_fmt && *options.scale_fmt != form.scale_fmt) {
    Contradicts(original, fmt::format("--scale-fmt {}", ScaleFmtName(*options.scale_fmt)),
                fmt::format("has {} scales", ScaleFmtName(form.scale_fmt)));
  }
  const quant::QuantizeFormat format{form.recipe, form.scale_fmt, first.block, OwnFormatOf(first)};
  if (quant::StoredScaleFormat(format, quant::FloatFormat::kBF16) != first.scale_format) {
    const std::string has =
        fmt::format("has {} scales", formats::DtypeName(tensor(first.scale).dtype));
    if (options.recipe) {
      Contradicts(original, fmt::format("--recipe {}", RecipeName(form.recipe)), has);
    }
    Fail(original, has + ", expected F32, BF16, F16 or F8_E8M0", {"", tensor(first.scale).name});
  }
  RequireForm(form);
  return form;
}

}  // namespace

std::optional<quant::FloatFormat> OwnFormatOf(const ScaledWeight& pair) {
  if (pair.scale_format != quant::ScaleFormat::kF16) return std::nullopt;
  return quant::FloatFormat::kF16;
}

Original OpenOriginal(const Bf16ToFp8Options& options, const std::filesystem::path& base,
                      const std::filesystem::path& output, Catalog& catalog) {
  Original original;
  const std::uint32_t first = catalog.tensors_end();
  OriginalFiles files = OpenOriginalFiles(
      options.scales_from, base, output,
      [&](const OpenedModel& model) { FindPairs(model, original); }, catalog);
  static_cast<OriginalFiles&>(original) = std::move(files);
  for (ScaledWeight& pair : original.pairs) {
    pair.weight += first;
    pair.scale += first;
  }
  original.form = FormOf(catalog, original, options);
  return original;
}

void RequireOriginalOf(const formats::Manifest& manifest, const Catalog& catalog,
                       const Original& original, const SideDigests& digests) {
  std::unordered_map<std::string_view, const formats::ManifestSource*> made_of;
  for (const formats::ManifestTensor& tensor : manifest.tensors) {
    for (const formats::ManifestSource& source : tensor.sources) {
      if (source.checkpoint.empty() && tensor.rule == "dequantize") {
        made_of.emplace(source.name, &source);
      }
    }
  }
  for (const ScaledWeight& pair : original.pairs) {
    const CatalogTensor& scale = catalog.tensors()[pair.scale];
    const auto found = made_of.find(scale.name);
    if (found == made_of.end()) continue;
    const formats::ManifestSource& source = *found->second;
    const std::string& digest = digests.at(pair.scale).xxh3;
    if (source.dtype == scale.dtype && source.shape == scale.shape && source.xxh3 == digest) {
      continue;
    }
    Fail(original,
         fmt::format("scale {} is not the one that the source was made with (xxh3_128 {}, expected "
                     "{} as {} of the source says); this is another checkpoint, name the one that "
                     "was converted",
                     QuoteForMessage(scale.name), digest, source.xxh3, formats::kManifestName),
         {catalog.files()[scale.extent.file].name, scale.name});
  }
}

}  // namespace dsv3::convert
