#include "convert/stream/value_scan.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "formats/checkpoint_files.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

Catalog CatalogOf(const std::filesystem::path& path) {
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(path);
  return Catalog::FromCheckpoint(files);
}

// The values of some tensors, joined from pieces that come in order.
std::vector<std::vector<float>> ValuesOf(const Catalog& catalog, const ScaleMap& scales,
                                         const std::vector<std::uint32_t>& tensors) {
  SourceFiles sources(catalog);
  ProgressSink progress;
  const StopToken stop;
  std::vector<std::vector<float>> values(catalog.tensors().size());
  const auto visit = [&](const ValuePiece& piece) {
    std::vector<float>& of_tensor = values[piece.tensor];
    EXPECT_EQ(piece.begin, of_tensor.size());
    of_tensor.resize(static_cast<std::size_t>(piece.end));
    piece.reader.Floats(piece.begin, piece.bytes, piece.scales, of_tensor.data() + piece.begin);
  };
  ScanValues(catalog, tensors, scales, sources,
             {.threads = 2, .memory_bytes = 1, .phase = "values", .in_order = true}, {}, visit,
             progress, stop);
  return values;
}

TEST(ValueScanTest, ReadsWeightsWithTheirScalesAndScalesAsFactors) {
  const testing::TempDir dir;
  testing::TinyCheckpoint checkpoint;
  checkpoint.has_index = false;
  // E4M3 codes of 1, 2, −1 and 0.5 in blocks of 1 × 2; E8M0 in U8 of 2 and 1/4.
  checkpoint.Add("a.safetensors", "w", Dtype::kF8E4M3, {2, 2}).bytes = "\x38\x40\xB8\x30";
  checkpoint.Add("a.safetensors", "w_scale", Dtype::kU8, {2, 1}).bytes = "\x80\x7D";
  checkpoint.Write(dir / "in");
  const Catalog catalog = CatalogOf(dir / "in");
  ScaledWeight pair;
  pair.weight = catalog.Find("w");
  pair.scale = catalog.Find("w_scale");
  pair.rows = 2;
  pair.cols = 2;
  pair.block = {1, 2};
  pair.scale_format = quant::ScaleFormat::kE8M0;
  const std::vector<ScaledWeight> pairs = {pair};
  const ScaleMap scales(pairs, catalog.tensors().size());
  const auto values = ValuesOf(catalog, scales, {pair.weight, pair.scale});
  EXPECT_EQ(values[pair.weight], (std::vector<float>{2, 4, -0.25F, 0.125F}));
  EXPECT_EQ(values[pair.scale], (std::vector<float>{2, 0.25F}));
  // Without the pair the codes are values, and U8 is a number.
  const auto stored = ValuesOf(catalog, ScaleMap({}, 2), {pair.weight, pair.scale});
  EXPECT_EQ(stored[pair.weight], (std::vector<float>{1, 2, -1, 0.5F}));
  EXPECT_EQ(stored[pair.scale], (std::vector<float>{128, 125}));
}

TEST(BadScalesTest, CountsWhatNoWeightCanHave) {
  const float inf = std::numeric_limits<float>::infinity();
  BadScales bad;
  bad.Add(10, std::vector<float>{1, std::nanf(""), 0, -2, inf, 3});
  EXPECT_EQ(bad.count, 4U);
  EXPECT_EQ(bad.first, 11U);
  EXPECT_TRUE(std::isnan(bad.first_value));
  BadScales earlier;
  earlier.Add(4, std::vector<float>{-1, 1});
  bad.Add(earlier);
  bad.Add(BadScales());
  EXPECT_EQ(bad.count, 5U);
  EXPECT_EQ(bad.first, 4U);
  EXPECT_EQ(bad.first_value, -1);
}

}  // namespace
}  // namespace dsv3::convert
