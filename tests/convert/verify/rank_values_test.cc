#include <filesystem>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/inspect/inspection.h"
#include "convert/inspect/tensor_statistics.h"
#include "convert/recipes/bf16_to_fp8.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// Rank shards in the place of the model that they hold: every command that reads values gives what
// it gives for the merged model.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RankValuesTest : public ::testing::Test {
 protected:
  // Expert parallel and tensor parallel cuts by rows and by columns; parts of rank files.
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    MakeSample(convert::SamplePreset::kTinyTp, 1, Model());
    convert::ReshardOptions options;
    options.parallel.tp = 4;
    options.parallel.ep = 8;
    options.max_shard_bytes = std::uint64_t{1} << 20;
    RunReshard(Model(), Ranks(), options);
  }
  static void TearDownTestSuite() { delete dir_; }

  static fs::path Model() { return *dir_ / "model"; }
  static fs::path Ranks() { return *dir_ / "ranks"; }
  // A place for what one test makes.
  static fs::path Out(const std::string& name) { return *dir_ / name; }

  static convert::CompareReport Compare(const fs::path& a, const fs::path& b) {
    convert::CompareRequest request;
    request.a = a;
    request.b = b;
    convert::ProgressSink progress;
    return convert::CompareCheckpoints(request, progress, {});
  }
  static convert::NumericReport Numeric(const fs::path& input) {
    convert::NumericRequest request;
    request.input = input;
    convert::ProgressSink progress;
    return convert::VerifyNumeric(request, progress, {});
  }

 private:
  static TempDir* dir_;
};

TempDir* RankValuesTest::dir_ = nullptr;

TEST_F(RankValuesTest, NumericMeasuresTheWholeModel) {
  const convert::NumericReport ranks = Numeric(Ranks());
  const convert::NumericReport model = Numeric(Model());
  EXPECT_TRUE(ranks.verification.Passes(/*strict=*/true));
  ASSERT_EQ(ranks.tensors.size(), model.tensors.size());
  for (std::size_t i = 0; i < ranks.tensors.size(); ++i) {
    const convert::NumericTensor& a = ranks.tensors[i];
    const convert::NumericTensor& b = model.tensors[i];
    SCOPED_TRACE(b.name);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.file, b.file);
    EXPECT_EQ(a.scaled, b.scaled);
    EXPECT_EQ(a.values, b.values);
    EXPECT_EQ(a.absmax, b.absmax);
    EXPECT_EQ(a.rms, b.rms);
  }
}

TEST_F(RankValuesTest, NumericFindsADamagedSlice) {
  const fs::path damaged = Out("damaged");
  fs::copy(Ranks(), damaged, fs::copy_options::recursive);
  // The last two bytes of a rank's file: BF16 or FP8, all bits set are a NaN in both.
  for (const fs::directory_entry& entry : fs::directory_iterator(damaged)) {
    if (!entry.path().filename().string().starts_with("model-rank-3-")) continue;
    std::string bytes = ReadFile(entry.path());
    bytes.replace(bytes.size() - 2, 2, "\xff\xff");
    WriteFile(entry.path(), bytes);
  }
  EXPECT_FALSE(Numeric(damaged).verification.Passes(/*strict=*/false));
  const convert::CompareReport compared = Compare(Model(), damaged);
  EXPECT_GT(compared.counts.different, 0U);
}

// Rows of zeros may be padding at the vocabulary's end, which the last of four ranks holds.
TEST_F(RankValuesTest, NumericFindsAVocabularySliceOfZeros) {
  for (const int rank : {0, 1, 3}) {
    const fs::path damaged = Out("zeros");
    fs::remove_all(damaged);
    fs::copy(Ranks(), damaged, fs::copy_options::recursive);
    // The head, and the MTP layer's copy of it.
    const std::set<std::string> names = {"lm_head.weight",
                                         "model.layers.4.shared_head.head.weight"};
    for (const fs::directory_entry& entry : fs::directory_iterator(damaged)) {
      const std::string file = entry.path().filename().string();
      if (!file.starts_with(fmt::format("model-rank-{}-", rank))) continue;
      const formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(entry.path(), file);
      for (const formats::SafetensorsTensor& tensor : header.tensors) {
        if (names.count(tensor.name) == 0) continue;
        std::string bytes = ReadFile(entry.path());
        const std::size_t count = tensor.end - tensor.begin;
        bytes.replace(header.data_offset + tensor.begin, count, count, '\0');
        WriteFile(entry.path(), bytes);
      }
    }
    const convert::Verification result = Numeric(damaged).verification;
    std::set<std::string> found;
    for (const formats::Finding& finding : result.findings) {
      found.insert(finding.tensor);
      EXPECT_EQ(finding.kind, rank == 3 ? "zero-rows" : "zero-run") << finding.message;
    }
    EXPECT_EQ(found, names) << rank;
    EXPECT_EQ(result.Passes(/*strict=*/false), rank == 3);
    EXPECT_FALSE(result.Passes(/*strict=*/true));
  }
}

TEST_F(RankValuesTest, ComparesWithCheckpointsAndWithOtherRanks) {
  convert::ReshardOptions options;
  options.parallel.tp = 2;
  RunReshard(Model(), Out("others"), options);
  const std::uint64_t tensors = Compare(Model(), Model()).counts.identical_bytes;
  ASSERT_GT(tensors, 0U);
  EXPECT_EQ(Compare(Model(), Ranks()).counts.identical_bytes, tensors);
  EXPECT_EQ(Compare(Ranks(), Model()).counts.identical_bytes, tensors);
  EXPECT_EQ(Compare(Ranks(), Out("others")).counts.identical_bytes, tensors);
}

TEST_F(RankValuesTest, InspectMeasuresATensorThatIsCutByColumns) {
  const convert::Inspection ranks = convert::Inspect(Ranks());
  const convert::Inspection model = convert::Inspect(Model());
  ASSERT_TRUE(ranks.config && model.config);
  const std::string name = "model.layers.0.self_attn.o_proj.weight";
  const auto measured = [&](const convert::Inspection& inspection) {
    return convert::MeasureTensor(inspection.model, convert::RequireTensors(inspection, name).at(0),
                                  &*inspection.config);
  };
  const convert::TensorStatistics a = measured(ranks);
  const convert::TensorStatistics b = measured(model);
  ASSERT_TRUE(a.stored && b.stored && a.dequantized && b.dequantized);
  EXPECT_EQ(a.stored->rms, b.stored->rms);
  EXPECT_EQ(a.dequantized->rms, b.dequantized->rms);
  EXPECT_EQ(a.dequantized->max, b.dequantized->max);
}

TEST_F(RankValuesTest, CastsTheWholeModelToTheSameFilesAndBack) {
  Conversion to_bf16(Ranks(), Out("bf16-of-ranks"));
  to_bf16.Run();
  Conversion(Model(), Out("bf16")).Run();
  EXPECT_TRUE(ReadTree(Out("bf16-of-ranks")) == ReadTree(Out("bf16")));

  convert::ReshardOptions options;
  options.parallel.tp = 2;
  options.parallel.ep = 4;
  RunReshard(Out("bf16"), Out("bf16-ranks"), options);
  Conversion(Out("bf16-ranks"), Out("fp8-of-ranks"), convert::Bf16ToFp8Conversion()).Run();
  Conversion whole(Out("bf16"), Out("fp8"), convert::Bf16ToFp8Conversion());
  // The manifest beside `bf16` remembers the original's config; rank shards do not.
  fs::remove(Out("bf16") / "checkpoint.manifest.json");
  whole.Run();
  EXPECT_TRUE(ReadTree(Out("fp8-of-ranks")) == ReadTree(Out("fp8")));
}

TEST_F(RankValuesTest, CastsRefuseDamagedRanksBeforeTheyWrite) {
  const fs::path damaged = Out("flipped");
  fs::copy(Ranks(), damaged, fs::copy_options::recursive);
  const fs::path file = damaged / "model-rank-2-part-0.safetensors";
  std::string bytes = ReadFile(file);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteFile(file, bytes);
  const Error error = ErrorOf([&] { Conversion(damaged, Out("none")).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().file, "model-rank-2-part-0.safetensors");
  EXPECT_THAT(error.message(), HasSubstr("XXH3-128 digest"));
  EXPECT_FALSE(fs::exists(Out("none")));
}

TEST_F(RankValuesTest, CastsRefuseToDeleteRanks) {
  Conversion conversion(Ranks(), Out("kept"));
  conversion.request.run.delete_source_shards = true;
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("rank shards"));
  EXPECT_FALSE(fs::exists(Out("kept")));
}

}  // namespace
}  // namespace dsv3::testing
