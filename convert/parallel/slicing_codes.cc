#include "convert/parallel/slicing_codes.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <string_view>

#include "convert/model/code_names.h"
#include "convert/model/quantized_form.h"
#include "formats/dtype.h"
#include "quant/codes.h"

namespace dsv3::convert {
namespace {

// Eight zero points of INT4 lie in a word, one behind the other in the direction of the rows.
constexpr std::uint64_t kZerosOfWord = 8;

// Whether the rows of codes are those of the matrix and their columns are parts of its rows, or the
// other way round.
bool LiesInLines(CodeLayout layout) {
  return layout == CodeLayout::kPlain || layout == CodeLayout::kTwoInByte ||
         layout == CodeLayout::kWordsOfRow || layout == CodeLayout::kAwq;
}

}  // namespace

std::vector<ScaledWeight> SliceableWeights(const Catalog& catalog, const ModelConfig& config,
                                           const ScaledWeights& found) {
  std::vector<ScaledWeight> weights = found.pairs;
  for (const ScaledWeight& weight : found.readable) {
    const auto form = RecogniseForm(catalog, config, weight.weight);
    const bool flat = catalog.tensors()[weight.scale].shape.size() <= 2;
    if (form && LiesInLines(form->layout) && flat) weights.push_back(weight);
  }
  std::sort(weights.begin(), weights.end(),
            [](const ScaledWeight& a, const ScaledWeight& b) { return a.weight < b.weight; });
  return weights;
}

CodeCompanions FindCodeCompanions(const Catalog& catalog, const ModelConfig& config,
                                  const std::vector<ScaledWeight>& scaled) {
  CodeCompanions companions;
  for (const ScaledWeight& pair : scaled) {
    if (!RecogniseForm(catalog, config, pair.weight)) continue;
    companions.coded.insert(pair.weight);
    const std::string weight = WeightOfCodes(catalog.tensors()[pair.weight].name);
    for (const std::string& name : NamesBesideWeight(weight)) {
      const std::uint32_t position = catalog.Find(name);
      if (position == Catalog::kNone || position == pair.weight) continue;
      companions.all.insert(position);
      if (name == weight + "_shape") companions.shapes.insert(position);
    }
    if (pair.zeros != Catalog::kNone) companions.zeros.emplace(pair.zeros, &pair);
  }
  return companions;
}

std::uint64_t ValuesOfElement(const Catalog& catalog, const ScaledWeight& pair) {
  return formats::DtypeBits(catalog.tensors()[pair.weight].dtype) / quant::CodeBits(pair.format);
}

ScaledCut CutOf(const SlicedTensor& weight, const ScaledWeight& pair) {
  const bool rows = weight.place.axis == SliceAxis::kRows;
  // Whether elements hold values of several rows, or else of several columns.
  const bool packs_rows = weight.axis != weight.place.axis;
  ScaledCut cut;
  cut.tensor = weight.tensor;
  cut.place = weight.place;
  cut.ways = weight.ways;
  cut.coded = weight.coded;
  cut.size =
      weight.axis == SliceAxis::kRows ? weight.padded.rows : weight.padded.cols * weight.values;
  cut.block = rows ? pair.block.rows : pair.block.cols;
  cut.spanned = cut.block >= (rows ? pair.rows : pair.cols);
  if (rows == packs_rows && weight.values > 1) {
    const bool by_element = cut.spanned || weight.values % cut.block == 0;
    cut.block = cut.spanned ? weight.values : std::lcm(cut.block, weight.values);
    cut.spanned = false;
    if (by_element) cut.shared = "an element of the packed codes";
  }
  // Where elements hold several rows, their zero points lie as they do.
  if (rows && !packs_rows && pair.zeros != Catalog::kNone &&
      pair.zero_format == ZeroFormat::kPackedRows) {
    cut.block *= kZerosOfWord;
    cut.spanned = false;
    cut.shared = "a word of zero points";
  }
  return cut;
}

}  // namespace dsv3::convert
