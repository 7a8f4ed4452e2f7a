#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "convert/inspect/inspection.h"
#include "convert/open/open_model.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "formats/error.h"
#include "formats/rank_layout.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/rank_shards.h"
#include "tests/convert/verify/structure_test.h"
#include "tests/support/files.h"

// Directories of rank shards.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kLayout[] = "layout.json";
constexpr char kNorm[] = "model.norm.weight";

class StructureRanksTest : public StructureTest {
 protected:
  std::vector<std::string> LinesOf(const RankShards& ranks) const {
    ranks.Write(in());
    return FoundLines();
  }
  std::vector<std::string> FoundLines() const { return Lines(Verify().verification.findings); }
  // Changes what the table tells of all slices of a tensor.
  void Retell(const std::string& name, const std::function<void(formats::LayoutTensor&)>& change) {
    for (formats::LayoutTensor& tensor : ranks_.layout.tensors) {
      if (tensor.name == name) change(tensor);
    }
  }
  static void Replace(const fs::path& file, const std::string& from, const std::string& to) {
    std::string content = ReadFile(file);
    content.replace(content.find(from), from.size(), to);
    WriteFile(file, content);
  }

  RankShards ranks_ = CutForTwoRanks(checkpoint_);
};

TEST_F(StructureRanksTest, SoundRanksHaveNoFinding) {
  EXPECT_THAT(LinesOf(ranks_), IsEmpty());
  const convert::StructureReport report = Verify();
  ASSERT_TRUE(report.ranks);
  EXPECT_EQ(report.ranks->format, "hf-rank");
  EXPECT_EQ(report.ranks->sizes.tp, 2U);
  EXPECT_EQ(report.model_type, "deepseek_v32");
  EXPECT_TRUE(report.known_model);
  EXPECT_GT(report.expected_tensors, 50U);
  EXPECT_EQ(report.tensors, checkpoint_.tensors.size());  // each once, whatever ranks hold it
  EXPECT_THAT(report.verification.files, ElementsAre("layout.json", kRankFile0, kRankFile1));
}

TEST_F(StructureRanksTest, FindsEveryFileThatIsNotOfTheLayout) {
  ranks_.Write(in());
  fs::remove(in() / kRankFile0);
  fs::resize_file(in() / kRankFile1, fs::file_size(in() / kRankFile1) - 1);
  EXPECT_THAT(FoundLines(), ElementsAre(std::string("missing-shard ") + kRankFile0 + " ",
                                        std::string("wrong-size ") + kRankFile1 + " "));
}

TEST_F(StructureRanksTest, FindsTheHeaderOfAnotherJob) {
  ranks_.Write(in());
  Replace(in() / kRankFile0, kNorm, "model.morn.weight");
  EXPECT_THAT(FoundLines(), ElementsAre(std::string("foreign-shard ") + kRankFile0 + " "));
}

TEST_F(StructureRanksTest, FindsAHeaderThatCannotBeRead) {
  ranks_.Write(in());
  Replace(in() / kRankFile1, "{", "[");
  EXPECT_THAT(FoundLines(), ElementsAre(std::string("unreadable-shard ") + kRankFile1 + " "));
}

TEST_F(StructureRanksTest, FindsEveryTensorThatTheTableTellsOtherwise) {
  Retell(kNorm, [](formats::LayoutTensor& tensor) { tensor.name = "model.nosuch.weight"; });
  const std::vector<std::string> lines = LinesOf(ranks_);
  EXPECT_THAT(
      lines,
      ElementsAre(std::string("tensor-not-in-layout ") + kRankFile0 + " " + kNorm,
                  std::string("tensor-not-in-shard ") + kRankFile0 + " model.nosuch.weight",
                  std::string("tensor-not-in-layout ") + kRankFile1 + " " + kNorm,
                  std::string("tensor-not-in-shard ") + kRankFile1 + " model.nosuch.weight"));
}

TEST_F(StructureRanksTest, FindsDtypesThatTheTableTellsOtherwise) {
  Retell(kNorm, [](formats::LayoutTensor& tensor) { tensor.dtype = formats::Dtype::kF16; });
  EXPECT_THAT(LinesOf(ranks_), ElementsAre(std::string("wrong-dtype ") + kRankFile0 + " " + kNorm,
                                           std::string("wrong-dtype ") + kRankFile1 + " " + kNorm));
}

TEST_F(StructureRanksTest, FindsSideFilesThatAreNotThoseOfTheJob) {
  ranks_.layout.side_files.push_back({"tokenizer.json", 3, "", std::string(32, '0')});
  ranks_.Write(in());
  WriteFile(in() / "tokenizer.json", "{}\n");
  EXPECT_THAT(FoundLines(), ElementsAre("wrong-digest tokenizer.json "));
  fs::remove(in() / "tokenizer.json");
  EXPECT_THAT(FoundLines(), ElementsAre("missing-file tokenizer.json "));
}

TEST_F(StructureRanksTest, FindsShardsOfNobodyAndLeftovers) {
  ranks_.Write(in());
  fs::copy_file(in() / kRankFile0, in() / "model-rank-9-part-0.safetensors");
  WriteFile(in() / "x.partial", "");
  EXPECT_THAT(FoundLines(), ElementsAre("unlisted-shard model-rank-9-part-0.safetensors ",
                                        "warning unfinished-conversion x.partial "));
}

TEST_F(StructureRanksTest, FindsSlicesThatDoNotGiveTheModel) {
  ranks_.Remove(kNorm);
  ranks_.Seal();
  EXPECT_THAT(LinesOf(ranks_), ElementsAre(std::string("bad-layout ") + kLayout + " " + kNorm));
}

TEST_F(StructureRanksTest, FindsALayoutThatCannotBeRead) {
  ranks_.Write(in());
  const std::string text = ReadFile(in() / kLayout);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, text.size() / 2}) {
    WriteFile(in() / kLayout, text.substr(0, bytes));
    EXPECT_THAT(FoundLines(), ElementsAre(std::string("bad-layout ") + kLayout + " "));
    EXPECT_FALSE(Verify().verification.Passes(/*strict=*/false));
  }
}

TEST_F(StructureRanksTest, ComparesTheModelWithItsConfig) {
  TinyCheckpoint smaller = checkpoint_;
  smaller.Drop(kNorm);
  const std::vector<std::string> lines = LinesOf(CutForTwoRanks(smaller));
  EXPECT_THAT(lines, ElementsAre(std::string("missing-tensor ") + kLayout + " " + kNorm));
}

TEST_F(StructureRanksTest, ACheckpointMayHaveAFileOfThatName) {
  Write();
  WriteFile(in() / kLayout, "{}\n");
  EXPECT_THAT(FoundLines(), IsEmpty());
  EXPECT_FALSE(Verify().ranks);
}

TEST_F(StructureRanksTest, WhatReadsValuesTakesRanksForTheirModel) {
  ranks_.Write(in());
  checkpoint_.Write(dir_ / "original");
  convert::ProgressSink progress;
  const convert::StopToken stop;
  convert::NumericRequest numeric;
  numeric.input = in();
  EXPECT_EQ(convert::VerifyNumeric(numeric, progress, stop).tensors.size(),
            checkpoint_.tensors.size());
  convert::CompareRequest compare;
  compare.a = dir_ / "original";
  compare.b = in();
  EXPECT_EQ(convert::CompareCheckpoints(compare, progress, stop).counts.different, 0U);
  EXPECT_EQ(convert::OpenModel(in()).catalog.tensors().size(), checkpoint_.tensors.size());
  const convert::Inspection shown = convert::Inspect(in());
  EXPECT_EQ(shown.model.catalog.tensors()[convert::RequireTensors(shown, kNorm).at(0)].name, kNorm);
}

TEST_F(StructureRanksTest, InspectShowsTheModelThatTheRanksHold) {
  ranks_.Write(in());
  checkpoint_.Write(dir_ / "original");
  const convert::Inspection shown = convert::Inspect(in());
  const convert::Inspection original = convert::Inspect(dir_ / "original");
  ASSERT_TRUE(shown.ranks);
  EXPECT_EQ(shown.ranks->sizes.world_size, 2U);
  EXPECT_EQ(shown.summary.tensors, original.summary.tensors);
  EXPECT_EQ(shown.summary.tensor_bytes, original.summary.tensor_bytes);
  EXPECT_EQ(shown.summary.parameters, original.summary.parameters);
  EXPECT_EQ(shown.summary.files, 2U);
  EXPECT_EQ(shown.summary.file_bytes,
            fs::file_size(in() / kRankFile0) + fs::file_size(in() / kRankFile1));
  EXPECT_FALSE(original.ranks);
}

}  // namespace
}  // namespace dsv3::testing
