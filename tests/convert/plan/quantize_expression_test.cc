#include "convert/plan/quantize_expression.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using ::testing::AllOf;
using testing::AsBytes;
using ::testing::HasSubstr;

// A weight of two 300 × 70 matrices and, for the comparison with an original, codes and scales.
class QuantizeExpressionTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kMatrices = 2;
  static constexpr std::uint64_t kRows = 300;
  static constexpr std::uint64_t kCols = 300;

  QuantizeExpressionTest() {
    checkpoint_.Add("a", "w", Dtype::kBF16, {kMatrices, kRows, kCols});
    // Finite values only.
    std::string& bytes = checkpoint_.Find("w").bytes;
    for (std::size_t i = 1; i < bytes.size(); i += 2) {
      bytes[i] = static_cast<char>((bytes[i] & 0x80) | (0x38 + (bytes[i] & 7)));
    }
    checkpoint_.Add("b", "codes", Dtype::kF8E4M3, {kMatrices, kRows, kCols});
    checkpoint_.AddScale("b", "scale", Dtype::kF32, {kMatrices, 3, 5});
  }

  Catalog MakeCatalog() const {
    std::vector<CatalogTensor> tensors;
    for (const testing::TinyTensor& tensor : checkpoint_.tensors) {
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape, {0, 0, tensor.bytes.size()}});
    }
    return Catalog({{"a", "a", 0, 0, ""}}, std::move(tensors));
  }

  QuantizedWeight Weight(bool like) const {
    QuantizedWeight weight;
    weight.weight = 0;
    weight.matrices = kMatrices;
    weight.rows = kRows;
    weight.cols = kCols;
    weight.format.block = {128, 64};
    weight.scale_shape = {kMatrices, 3, 5};
    if (like) weight.original = QuantizedWeight::Original{1, 2};
    return weight;
  }

  struct Made {
    std::string codes;
    std::string scales;
    quant::Quality quality;
    std::size_t records = 0;
  };

  // Evaluates the codes in pieces that end at the last cut before each multiple of `step`.
  Made Make(const Expression& codes, std::uint64_t step) const {
    Made made;
    made.codes.resize(static_cast<std::size_t>(codes.num_bytes()));
    if (codes.by_product() != nullptr) {
      made.scales.resize(static_cast<std::size_t>(codes.by_product()->num_bytes()));
    }
    for (std::uint64_t begin = 0; begin < codes.num_bytes();) {
      std::uint64_t end = codes.num_bytes();
      if (begin + step < end) end = codes.CutAtOrBefore(begin + step);
      if (end <= begin) end = codes.CutAfter(begin);
      std::vector<SourceRange> reads;
      codes.AppendReads(begin, end, reads);
      std::vector<std::span<const std::byte>> inputs;
      for (const SourceRange& read : reads) {
        inputs.push_back(AsBytes(checkpoint_.tensors[read.tensor].bytes)
                             .subspan(static_cast<std::size_t>(read.begin),
                                      static_cast<std::size_t>(read.end - read.begin)));
      }
      const ByteRange by_product = codes.ByProductRange(begin, end);
      EvaluationOutput out;
      out.value =
          std::as_writable_bytes(std::span(made.codes))
              .subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
      out.by_product = std::as_writable_bytes(std::span(made.scales))
                           .subspan(static_cast<std::size_t>(by_product.begin),
                                    static_cast<std::size_t>(by_product.end - by_product.begin));
      codes.Evaluate(begin, end, inputs, out);
      for (const quant::Quality& quality : out.counts.quality) made.quality.Add(quality);
      made.records += out.counts.quality.size();
      begin = end;
    }
    return made;
  }

  // What quant::Quantize makes of each panel.
  Made Expected(const QuantizedWeight& weight) const {
    Made made;
    made.codes.resize(kMatrices * kRows * kCols);
    made.scales.resize(kMatrices * 3 * 5 * sizeof(float));
    std::size_t row_of_scales = 0;
    for (std::uint64_t matrix = 0; matrix < kMatrices; ++matrix) {
      for (std::uint64_t row = 0; row < kRows; row += 128) {
        const std::uint64_t rows = std::min<std::uint64_t>(128, kRows - row);
        const auto at = static_cast<std::size_t>((matrix * kRows + row) * kCols);
        const auto count = static_cast<std::size_t>(rows * kCols);
        const std::size_t scale_at = row_of_scales++ * 5 * sizeof(float);
        const auto codes =
            std::span(reinterpret_cast<std::uint8_t*>(made.codes.data()), made.codes.size())
                .subspan(at, count);
        const auto scales = std::as_writable_bytes(std::span(made.scales)).subspan(scale_at, 20);
        const quant::QuantizePanel panel{
            quant::FloatFormat::kBF16,
            AsBytes(checkpoint_.tensors[0].bytes).subspan(2 * at, 2 * count), rows, kCols};
        if (weight.original) {
          const std::span original_codes(
              reinterpret_cast<const std::uint8_t*>(checkpoint_.tensors[1].bytes.data()) + at,
              count);
          quant::QuantizeLike(weight.format, panel, original_codes,
                              AsBytes(checkpoint_.tensors[2].bytes).subspan(scale_at, 20),
                              quant::Nonfinite::kReport, codes, scales, made.quality);
        } else {
          quant::Quantize(weight.format, panel, quant::Nonfinite::kReport, codes, scales,
                          made.quality);
        }
      }
    }
    return made;
  }

  // The weight's blocks of the first matrix become what the original says.
  void KeepFirstBlocks() {
    quant::DequantizeSpan span;
    const std::string& codes = checkpoint_.Find("codes").bytes;
    span.codes = {reinterpret_cast<const std::uint8_t*>(codes.data()), kRows * kCols};
    span.cols = kCols;
    span.block = {128, 64};
    std::vector<float> scales(15);
    std::memcpy(scales.data(), checkpoint_.Find("scale").bytes.data(), 60);
    span.scales = scales;
    quant::DequantizeCounts counts;
    std::vector<std::uint16_t> values(kRows * kCols);
    quant::DequantizeE4M3ToBF16(span, values.data(), counts);
    std::memcpy(checkpoint_.Find("w").bytes.data(), values.data(), 2 * values.size());
  }

  testing::TinyCheckpoint checkpoint_;
};

TEST_F(QuantizeExpressionTest, MakesThePanelsOfEveryMatrixInAnyCut) {
  const Catalog catalog = MakeCatalog();
  const QuantizeExpressions made = Quantize(catalog, Weight(false));
  EXPECT_EQ(made.codes->rule(), "quantize");
  EXPECT_EQ(made.scale->rule(), "quantize-scale");
  EXPECT_EQ(made.codes->by_product(), made.scale.get());
  EXPECT_EQ(made.scale->maker(), made.codes.get());
  EXPECT_EQ(made.scale->dtype(), Dtype::kF32);
  const Made expected = Expected(Weight(false));
  std::size_t records = 0;
  for (const std::uint64_t step : {1U, 50'000U, 10'000'000U}) {
    const Made result = Make(*made.codes, step);
    EXPECT_TRUE(result.codes == expected.codes) << step;
    EXPECT_TRUE(result.scales == expected.scales) << step;
    EXPECT_EQ(result.quality.blocks, kMatrices * 15);
    EXPECT_EQ(result.quality.elements, kMatrices * kRows * kCols);
    // Sums are cut in one way.
    EXPECT_TRUE(records == 0 || records == result.records);
    records = result.records;
  }
}

TEST_F(QuantizeExpressionTest, KeepsUneditedBlocksOfTheOriginal) {
  KeepFirstBlocks();
  const Catalog catalog = MakeCatalog();
  const QuantizeExpressions made = Quantize(catalog, Weight(true));
  EXPECT_EQ(made.scale->expected_source(), 2U);
  const Made expected = Expected(Weight(true));
  const Made result = Make(*made.codes, 1);
  EXPECT_TRUE(result.codes == expected.codes);
  EXPECT_TRUE(result.scales == expected.scales);
  EXPECT_EQ(result.quality.kept_blocks, 15U);
  EXPECT_EQ(result.codes.substr(0, kRows * kCols),
            checkpoint_.Find("codes").bytes.substr(0, kRows * kCols));
}

TEST_F(QuantizeExpressionTest, TwoPassesMakeTheSameBytes) {
  KeepFirstBlocks();
  const Catalog catalog = MakeCatalog();
  for (const bool like : {false, true}) {
    // Without NaN codes, which only an original excuses.
    if (!like) checkpoint_.Find("w").bytes.assign(2 * kMatrices * kRows * kCols, '\x3c');
    const QuantizedWeight weight = Weight(like);
    const auto first_pass = std::make_shared<FirstPass>(catalog, weight);
    const std::span values = AsBytes(checkpoint_.Find("w").bytes);
    const std::span codes = AsBytes(checkpoint_.Find("codes").bytes);
    const std::span scales = AsBytes(checkpoint_.Find("scale").bytes);
    // Parts that end anywhere, the last one first.
    const std::size_t half = 77'777;
    first_pass->Add(half, values.subspan(2 * half),
                    like ? codes.subspan(half) : std::span<const std::byte>(), scales);
    first_pass->Add(0, values.first(2 * half),
                    like ? codes.first(half) : std::span<const std::byte>(), scales);
    first_pass->Finish(scales);
    const QuantizeExpressions made = Quantize(catalog, first_pass);
    EXPECT_EQ(made.codes->by_product(), nullptr);
    const Made expected = Expected(weight);
    for (const std::uint64_t step : {1U, 100'000U}) {
      const Made result = Make(*made.codes, step);
      EXPECT_TRUE(result.codes == expected.codes);
      EXPECT_EQ(result.quality.blocks, expected.quality.blocks);
      EXPECT_EQ(result.quality.kept_blocks, expected.quality.kept_blocks);
      EXPECT_EQ(result.quality.changed_codes, expected.quality.changed_codes);
    }
    std::string scale(static_cast<std::size_t>(made.scale->num_bytes()), '\0');
    std::vector<SourceRange> reads;
    made.scale->AppendReads(0, made.scale->num_bytes(), reads);
    EXPECT_TRUE(reads.empty());
    EvaluationOutput out;
    out.value = std::as_writable_bytes(std::span(scale));
    made.scale->Evaluate(0, made.scale->num_bytes(), {}, out);
    EXPECT_TRUE(scale == expected.scales);
  }
}

TEST_F(QuantizeExpressionTest, NamesThePlaceOfANan) {
  const std::size_t element = kRows * kCols + 131 * kCols + 7;
  checkpoint_.Find("w").bytes.replace(2 * element, 2, "\xc0\x7f");
  const Catalog catalog = MakeCatalog();
  const QuantizeExpressions made = Quantize(catalog, Weight(false));
  try {
    Make(*made.codes, 1);
    FAIL() << "an Error was expected";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("'w' is NaN"), HasSubstr("matrix 1, row 131, column 7")));
    EXPECT_EQ(error.place().tensor, "w");
  }
}

TEST_F(QuantizeExpressionTest, FirstPassNamesTheFirstNanWhateverTheOrder) {
  std::string& bytes = checkpoint_.Find("w").bytes;
  bytes.replace(2 * (3 * kCols + 5), 2, "\xc0\x7f");
  bytes.replace(2 * (kRows * kCols), 2, "\x80\xff");
  const Catalog catalog = MakeCatalog();
  for (const bool forwards : {true, false}) {
    FirstPass first_pass(catalog, Weight(false));
    const std::size_t half = kRows * kCols;
    const std::span values = AsBytes(bytes);
    if (forwards) first_pass.Add(0, values.first(2 * half));
    first_pass.Add(half, values.subspan(2 * half));
    if (!forwards) first_pass.Add(0, values.first(2 * half));
    try {
      first_pass.Finish();
      FAIL() << "an Error was expected";
    } catch (const Error& error) {
      EXPECT_THAT(error.message(), HasSubstr("NaN at matrix 0, row 3, column 5"));
    }
  }
}

TEST_F(QuantizeExpressionTest, NeedsTwoPassesForLongPanels) {
  QuantizedWeight weight = Weight(false);
  EXPECT_FALSE(NeedsTwoPasses(weight));
  weight.rows = 1 << 20;
  weight.format.block = {1 << 20, 4};
  weight.cols = 4;
  EXPECT_FALSE(NeedsTwoPasses(weight));  // 8 MiB
  weight.cols = 5;
  EXPECT_TRUE(NeedsTwoPasses(weight));
}

}  // namespace
}  // namespace dsv3::convert
