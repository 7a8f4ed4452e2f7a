// dsv3-quantize-check RECIPE SCALE_FMT BLOCK_ROWS BLOCK_COLS DTYPE ROWS COLS: quantises the packed
// values of a matrix on standard input, and writes its codes and then its scales, as they are
// stored, to standard output. For comparison with other programs' arithmetic; the arguments are
// trusted.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "quant/quantize.h"

namespace {

using dsv3::quant::FloatFormat;
using dsv3::quant::QuantizeRecipe;
using dsv3::quant::ScaleFmt;

const std::map<std::string, QuantizeRecipe> kRecipes = {
    {"deepseek", QuantizeRecipe::kDeepSeek},
    {"deepgemm", QuantizeRecipe::kDeepGemm},
    {"transformers", QuantizeRecipe::kTransformers},
    {"llm-compressor", QuantizeRecipe::kLlmCompressor}};
const std::map<std::string, ScaleFmt> kScaleFmts = {
    {"f32", ScaleFmt::kF32}, {"ue8m0", ScaleFmt::kUe8m0}, {"e8m0", ScaleFmt::kE8M0}};
const std::map<std::string, FloatFormat> kDtypes = {
    {"BF16", FloatFormat::kBF16}, {"F16", FloatFormat::kF16}, {"F32", FloatFormat::kF32}};

std::uint64_t Number(const char* text) { return std::strtoull(text, nullptr, 10); }

bool Write(std::span<const std::byte> bytes) {
  return std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  dsv3::quant::QuantizeFormat format;
  format.recipe = kRecipes.at(argv[1]);
  format.scale_fmt = kScaleFmts.at(argv[2]);
  format.block = {Number(argv[3]), Number(argv[4])};
  const FloatFormat dtype = kDtypes.at(argv[5]);
  const std::uint64_t rows = Number(argv[6]);
  const std::uint64_t cols = Number(argv[7]);
  const std::size_t row_bytes = cols * dsv3::quant::FloatBytes(dtype);
  const std::size_t scale_row_bytes =
      ((cols - 1) / format.block.cols + 1) *
      dsv3::quant::ScaleBytes(dsv3::quant::StoredScaleFormat(format, dtype));

  std::vector<std::byte> values(rows * row_bytes);
  if (std::fread(values.data(), 1, values.size(), stdin) != values.size()) return 4;
  std::vector<std::uint8_t> codes(rows * cols);
  std::vector<std::byte> scales;
  dsv3::quant::Quality quality;
  for (std::uint64_t row = 0; row < rows; row += format.block.rows) {
    const std::uint64_t panel_rows = std::min(format.block.rows, rows - row);
    scales.resize(scales.size() + scale_row_bytes);
    const auto nonfinite = dsv3::quant::Quantize(
        format,
        {dtype, std::span(values).subspan(row * row_bytes, panel_rows * row_bytes), panel_rows,
         cols},
        dsv3::quant::Nonfinite::kReport, std::span(codes).subspan(row * cols, panel_rows * cols),
        std::span(scales).last(scale_row_bytes), quality);
    if (nonfinite) return 3;
  }
  return Write(std::as_bytes(std::span(codes))) && Write(scales) ? 0 : 4;
}
