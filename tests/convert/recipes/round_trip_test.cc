#include <filesystem>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/bf16_to_fp8.h"
#include "convert/recipes/sample.h"
#include "convert/verify/structure.h"
#include "tests/convert/support/bf16_to_fp8_test.h"
#include "tests/convert/support/checkpoint_checks.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/matrix_model.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// Checkpoints of the family in every layout, through BF16 and back, with all checks on the way.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::SamplePreset;
using formats::Dtype;

class RoundTripTest : public ::testing::Test {
 protected:
  fs::path fp8() const { return dir_ / "fp8"; }
  fs::path bf16() const { return dir_ / "bf16"; }
  fs::path again() const { return dir_ / "again"; }

  void Sample(SamplePreset preset, std::uint64_t seed) const {
    QuickFileSystem file_system;
    convert::ProgressSink progress;
    convert::WriteSample({preset, seed}, fp8(), file_system, progress);
  }

  convert::ConversionReport ToFp8(const fs::path& in, const fs::path& out,
                                  const convert::Bf16ToFp8Options& options) const {
    return Conversion(in, out, convert::Bf16ToFp8Conversion(options)).Run();
  }

  // From `original` to BF16 and back, with its scales.
  void ExpectTheWayBack(const fs::path& original) const {
    ExpectWithoutFindings(original);
    const convert::ConversionReport report = Conversion(original, bf16()).Run();
    EXPECT_EQ(Messages(report.warnings), "");
    ExpectWithoutFindings(bf16());
    ExpectEqualValues(original, bf16());
    ExpectSoundChecksums(bf16(), dir_ / "copy");
    convert::Bf16ToFp8Options options;
    options.scales_from = original;
    ToFp8(bf16(), again(), options);
    ExpectSoundChecksums(again(), dir_ / "copy");
    ExpectTraced(again(), bf16());
  }
  void Clear() const {
    for (const char* const name : {"fp8", "bf16", "again"}) fs::remove_all(dir_ / name);
  }

  TempDir dir_{MemoryDirectory()};
};

TEST_F(RoundTripTest, EveryPresetComesBackToTheByte) {
  const std::pair<SamplePreset, std::uint64_t> samples[] = {{SamplePreset::kTiny, 4},
                                                            {SamplePreset::kTiny, 5},
                                                            {SamplePreset::kTinyV32, 6},
                                                            {SamplePreset::kTinyKimi, 7}};
  for (const auto& [preset, seed] : samples) {
    SCOPED_TRACE(seed);
    Sample(preset, seed);
    ExpectTheWayBack(fp8());
    ExpectSameFiles(fp8(), again());
    Clear();
  }
}

TEST_F(RoundTripTest, NewScalesAreFoundRightInEveryPreset) {
  for (const SamplePreset preset :
       {SamplePreset::kTiny, SamplePreset::kTinyV32, SamplePreset::kTinyKimi}) {
    Sample(preset, 8);
    Conversion(fp8(), bf16()).Run();
    ToFp8(bf16(), again(), {});
    ExpectWithoutFindings(again());
    ExpectSoundChecksums(again(), dir_ / "copy");
    ExpectTraced(again(), bf16());
    const convert::CompareReport report = Compare(bf16(), again(), 1e-6, 0.0625 + 0.004);
    EXPECT_EQ(Messages(report.verification.findings), "");
    Clear();
  }
}

TEST_F(RoundTripTest, AHubCacheIsReadLikeItsDirectory) {
  Sample(SamplePreset::kTiny, 9);
  const fs::path cache = dir_ / "models--org--name";
  for (const auto& [name, content] : ReadTree(fp8())) {
    if (name.ends_with('/')) continue;
    WriteFile(cache / "blobs" / ("b" + name), content);
    fs::create_directories(cache / "snapshots/0123");
    fs::create_symlink("../../blobs/b" + name, cache / "snapshots/0123" / name);
  }
  WriteFile(cache / "refs/main", "0123");
  ExpectTheWayBack(cache);
  ExpectSameFiles(fp8(), again());
}

TEST_F(RoundTripTest, ASingleFileComesBackToTheByte) {
  for (const char* const name : {"model.safetensors", "other.safetensors"}) {
    SCOPED_TRACE(name);
    TinyCheckpoint checkpoint = MatrixCheckpoint(Dtype::kBF16);
    for (TinyTensor& tensor : checkpoint.tensors) tensor.shard = name;
    checkpoint.has_index = false;
    checkpoint.Write(dir_ / "source");
    ToFp8(dir_ / "source" / name, fp8(), {});
    // The output has an index, which other names than the usual one need.
    const bool is_usual = name == std::string("model.safetensors");
    ExpectTheWayBack(is_usual ? fp8() / name : fp8());
    ExpectSameFiles(fp8(), again());
    EXPECT_EQ(fs::exists(fp8() / "model.safetensors.index.json"), !is_usual);
    Clear();
    fs::remove_all(dir_ / "source");
  }
}

TEST_F(RoundTripTest, FusedExpertsAreFoundRightInEveryForm) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16}) {
    MatrixCheckpoint(dtype, /*fused=*/true).Write(dir_ / "source");
    for (const MatrixForm& form : MatrixForms()) {
      // What the experts are matters to llm-compressor; two other recipes make the same forms.
      const bool in_own = form.options.recipe == quant::QuantizeRecipe::kLlmCompressor;
      const bool in_f32 = form.options.recipe == quant::QuantizeRecipe::kDeepSeek;
      if (dtype == Dtype::kF16 ? !in_own : !in_own && !in_f32) continue;
      SCOPED_TRACE(form.name);
      const convert::ConversionReport report = ToFp8(dir_ / "source", fp8(), form.options);
      EXPECT_EQ(Messages(report.warnings), "");
      ExpectWithoutFindings(fp8());
      ExpectTheWayBack(fp8());
      ExpectSameFiles(fp8(), again());
      Clear();
    }
    fs::remove_all(dir_ / "source");
  }
}

// llm-compressor keeps scales in the weights' dtype, which BF16 weights do not tell any more.
TEST_F(RoundTripTest, EditedBlocksOfAnF16OriginalGetScalesLikeTheOthers) {
  MatrixCheckpoint(Dtype::kF16).Write(dir_ / "source");
  convert::Bf16ToFp8Options options;
  options.recipe = quant::QuantizeRecipe::kLlmCompressor;
  ToFp8(dir_ / "source", fp8(), options);
  Conversion(fp8(), bf16()).Run();
  const std::string weight = "model.layers.0.self_attn.o_proj.weight";
  Poke(bf16(), weight, 2 * 5, std::string("\x40\x40", 2));  // 3
  options = {};
  options.scales_from = fp8();
  const convert::ConversionReport report = ToFp8(bf16(), again(), options);
  for (const convert::TensorQuality& each : report.quality) {
    EXPECT_EQ(each.quality.blocks - each.quality.kept_blocks, each.tensor == weight ? 1U : 0U)
        << each.tensor;
  }
  EXPECT_EQ(FindTensor(again(), weight + "_scale").entry.dtype, Dtype::kF16);
  // 3 / 448 in F16: 0x1.B6Cp-8.
  EXPECT_EQ(TensorBytes(again(), weight + "_scale").substr(0, 2), std::string("\xdb\x1e", 2));
  EXPECT_EQ(TensorBytes(again(), weight)[5], '\x7e');
  const convert::StructureReport structure = convert::VerifyStructure({again()});
  EXPECT_EQ(Messages(structure.verification.findings), "");
}

}  // namespace
}  // namespace dsv3::testing
