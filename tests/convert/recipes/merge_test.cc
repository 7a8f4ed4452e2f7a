#include "tests/convert/recipes/merge_test.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "formats/manifest.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::AddOthersWhole;
using testing::BytesOfBox;
using ::testing::ElementsAre;
using testing::EmptyRanks;
using ::testing::HasSubstr;
using testing::MergeTest;
using testing::PartOf;
using testing::PlainCheckpoint;
using testing::RankShards;
using testing::SmallFp8Checkpoint;
using testing::TinyCheckpoint;
using testing::TinyTensor;

TEST_F(MergeTest, GivesTheOriginalFilesBack) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  ExpectOriginal(original, CutForTwoRanks(original));
}

TEST_F(MergeTest, GivesTheSameBytesWithAnyNumberOfThreads) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  const RankShards ranks = CutForTwoRanks(original);
  ranks.Write(ranks_);
  Merge();
  const std::map<std::string, std::string> tree = testing::ReadTree(out_);
  request_.output = dir_ / "again";
  request_.run.threads = 4;
  Merge();
  EXPECT_EQ(testing::ReadTree(request_.output), tree);
}

TEST_F(MergeTest, GivesASingleFileBackWithoutAnIndex) {
  const TinyCheckpoint original = PlainCheckpoint();
  ExpectOriginal(original, CutForTwoRanks(original));
}

TEST_F(MergeTest, GivesSeveralFilesWithoutAnIndexBack) {
  TinyCheckpoint original = SmallFp8Checkpoint();
  original.has_index = false;
  ExpectOriginal(original, CutForTwoRanks(original));
}

TEST_F(MergeTest, KeepsTheSpellingOfHeadersIndexAndConfig) {
  TinyCheckpoint original = PlainCheckpoint();
  original.has_index = true;
  original.index_text =
      "{\"weight_map\":{\n\"up\":\"model.safetensors\",\"gate\":\"model.safetensors\" ,"
      "\"norm\":\"model.safetensors\"},\"metadata\":{\"total_size\":114,\"x\":1}}";
  original.config += "\n \t\n";
  RankShards ranks = CutForTwoRanks(original);
  // A longer header than the reference's, in other words.
  std::string& header = ranks.layout.source_files[0].header;
  header.replace(header.find("\"pt\""), 4, "\"pt\\n\"   ");
  header.append(8 - header.size() % 8, ' ');
  std::uint64_t length = header.size();
  const std::string file = original.ShardBytes("model.safetensors");
  std::string spelled(reinterpret_cast<const char*>(&length), sizeof(length));
  std::uint64_t old_length = 0;
  file.copy(reinterpret_cast<char*>(&old_length), sizeof(old_length));
  spelled += header + file.substr(sizeof(old_length) + old_length);
  ranks.layout.source_files[0].bytes = spelled.size();
  ranks.Write(ranks_);
  original.Write(original_);
  testing::WriteFile(original_ / "model.safetensors", spelled);
  EXPECT_TRUE(Merge().original);
  testing::ExpectSameFiles(out_, original_);
}

TEST_F(MergeTest, HasTheContentDigestOfTheOriginal) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  ExpectOriginal(original, CutForTwoRanks(original));
  testing::ExpectManifest(original_);
  const auto digest_of = [](const fs::path& directory) {
    return formats::ParseManifest(testing::ReadFile(directory / formats::kManifestName), "m")
        .content_digest;
  };
  EXPECT_EQ(digest_of(out_), digest_of(original_));
  testing::ExpectSoundChecksums(out_, dir_ / "copy");
}

TEST_F(MergeTest, TellsInTheManifestWhatEachTensorWasMadeOf) {
  const TinyCheckpoint original = PlainCheckpoint();
  const RankShards ranks = CutForTwoRanks(original);
  ranks.Write(ranks_);
  Merge();
  const formats::Manifest manifest =
      formats::ParseManifest(testing::ReadFile(out_ / formats::kManifestName), "m");
  EXPECT_EQ(manifest.job.recipe, "merge");
  ASSERT_EQ(manifest.tensors.size(), 3U);
  EXPECT_EQ(manifest.tensors[1].name, "norm");
  EXPECT_EQ(manifest.tensors[1].rule, "assemble");
  ASSERT_EQ(manifest.tensors[1].sources.size(), 2U);
  EXPECT_EQ(manifest.tensors[1].sources[0].name, "norm");
  EXPECT_EQ(manifest.tensors[1].sources[0].file, testing::kRankFile0);
  EXPECT_EQ(manifest.tensors[1].sources[1].file, testing::kRankFile1);
  EXPECT_EQ(manifest.tensors[1].sources[1].shape, formats::Shape{1});
  EXPECT_EQ(manifest.tensors[1].sources[1].xxh3, ranks.layout.tensors[3].xxh3);
}

TEST_F(MergeTest, ReportsWhatItDid) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  CutForTwoRanks(original).Write(ranks_);
  const ConversionReport report = Merge().conversion;
  EXPECT_EQ(report.recipe, "merge");
  EXPECT_EQ(report.outcome, ConversionReport::Outcome::kConverted);
  EXPECT_EQ(report.tensors, original.tensors.size());
  EXPECT_EQ(report.copied_tensors + report.converted_tensors, report.tensors);
  EXPECT_GT(report.copied_tensors, 0U);
  EXPECT_GT(report.converted_tensors, 0U);
  EXPECT_EQ(report.files.size(), 4U);
  EXPECT_EQ(report.side_files, 5U);
  EXPECT_EQ(Merge().conversion.outcome, ConversionReport::Outcome::kNothingToDo);
}

TEST_F(MergeTest, WritesNothingInADryRun) {
  CutForTwoRanks(SmallFp8Checkpoint()).Write(ranks_);
  request_.run.dry_run = true;
  EXPECT_EQ(Merge().conversion.outcome, ConversionReport::Outcome::kPlanned);
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(MergeTest, TakesConcatenatedPartsApart) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& gate = original.tensors[0];
  const TinyTensor& up = original.tensors[2];
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {"gate", "up"}, ranks);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const Box gate_box = {3 * i, 3 * i + 3, 0, 5};
    const Box up_box = {2 * i, 2 * i + 2, 0, 5};
    ranks.Add("gate_up", Dtype::kBF16, {5, 5}, BytesOfBox(gate, gate_box) + BytesOfBox(up, up_box),
              {i}, {PartOf(gate, gate_box), PartOf(up, up_box)});
  }
  ranks.Seal();
  ExpectOriginal(original, ranks);
}

TEST_F(MergeTest, LeavesPaddingOut) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& gate = original.tensors[0];
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {"gate"}, ranks);
  ranks.Add("gate", Dtype::kBF16, {6, 5}, gate.bytes.substr(0, 50) + std::string(10, '\0'), {0},
            {PartOf(gate, {0, 5, 0, 5})});
  ranks.Add("gate", Dtype::kBF16, {6, 5}, gate.bytes.substr(50) + std::string(50, '\0'), {1},
            {PartOf(gate, {5, 6, 0, 5})});
  ranks.Add("padding", Dtype::kBF16, {6, 5}, std::string(60, '\0'), {1}, {});
  ranks.Seal();
  ExpectOriginal(original, ranks);
}

TEST_F(MergeTest, ReadsPartsThatAreStoredInAnotherShape) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& gate = original.tensors[0];
  const TinyTensor& up = original.tensors[2];
  const TinyTensor& norm = original.tensors[1];
  RankShards ranks = EmptyRanks(original);
  ranks.Add("flat", Dtype::kBF16, {50}, gate.bytes + up.bytes, {0},
            {PartOf(gate, {0, 6, 0, 5}), PartOf(up, {0, 4, 0, 5})});
  ranks.Add("norm", Dtype::kBF16, {1, 7}, norm.bytes, {1}, {PartOf(norm, {0, 7, 0, 1})});
  ranks.Seal();
  ExpectOriginal(original, ranks);
}

TEST_F(MergeTest, TakesCopiesUnderOtherNames) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& gate = original.tensors[0];
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {}, ranks);
  ranks.Add("alias", Dtype::kBF16, {6, 5}, gate.bytes, {0, 1}, {PartOf(gate, {0, 6, 0, 5})});
  ranks.Seal();
  ExpectOriginal(original, ranks);
}

TEST_F(MergeTest, LeavesFilesOfOtherJobsAlone) {
  const TinyCheckpoint original = PlainCheckpoint();
  const RankShards ranks = CutForTwoRanks(original);
  testing::WriteFile(ranks_ / "model-rank-2-part-0.safetensors", "not even a header");
  testing::WriteFile(ranks_ / "notes.txt", "mine");
  original.Write(original_);
  ranks.Write(ranks_);
  const MergeReport report = Merge();
  testing::ExpectSameFiles(out_, original_);
  ASSERT_EQ(report.conversion.warnings.size(), 2U);
  EXPECT_EQ(report.conversion.warnings[0].kind, "unlisted-shard");
  EXPECT_EQ(report.conversion.warnings[0].file, "model-rank-2-part-0.safetensors");
}

// Scales for blocks of 4 × 8 that the ranks hold for blocks of 2 × 4.
TEST_F(MergeTest, PutsRecutScalesBack) {
  TinyCheckpoint original;
  original.config = testing::TinyConfig();
  original.has_index = false;
  const TinyTensor weight = original.Add("model.safetensors", "a.weight", Dtype::kF8E4M3, {10, 12});
  const TinyTensor scale =
      original.AddScale("model.safetensors", "a.weight_scale_inv", Dtype::kF32, {3, 2});
  TinyTensor fine = scale;
  fine.shape = {5, 3};
  fine.bytes.clear();
  for (std::size_t row = 0; row < 5; ++row) {
    for (std::size_t col = 0; col < 3; ++col) {
      fine.bytes += scale.bytes.substr(((row / 2) * 2 + col / 2) * 4, 4);
    }
  }
  RankShards ranks = EmptyRanks(original);
  ranks.layout.on_misaligned = "subblock";
  ranks.layout.recut_block = {2, 4};
  for (std::uint32_t i = 0; i < 2; ++i) {
    const Box box = i == 0 ? Box{0, 6, 0, 12} : Box{6, 10, 0, 12};
    const Box fine_box = i == 0 ? Box{0, 3, 0, 3} : Box{3, 5, 0, 3};
    ranks.Add("a.weight", weight.dtype, {box.rows(), 12}, BytesOfBox(weight, box), {i},
              {PartOf(weight, box)});
    ranks.Add("a.weight_scale_inv", Dtype::kF32, {fine_box.rows(), 3}, BytesOfBox(fine, fine_box),
              {i}, {PartOf(fine, fine_box)}, "recut-scales");
  }
  ranks.Seal();
  ExpectOriginal(original, ranks);

  ranks.layout.recut_block = {3, 4};
  EXPECT_THAT(RefusalOf(ranks).message(), HasSubstr("blocks of 3 x 4, which do not divide"));
  ranks.layout.recut_block = {0, 0};
  EXPECT_THAT(RefusalOf(ranks).message(), HasSubstr("'a.weight_scale_inv' was recut"));
  ranks.layout.recut_block = {2, 4};
  for (formats::LayoutTensor& tensor : ranks.layout.tensors) tensor.rule = "recut-scales";
  EXPECT_THAT(RefusalOf(ranks).message(), HasSubstr("'a.weight' was recut and is not a scale"));
}

TEST_F(MergeTest, WritesWhatBecameBf16AsItIs) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  RankShards ranks = CutForTwoRanks(original);
  ranks.Remove("b.weight");
  ranks.Remove("b.weight_scale_inv");
  TinyCheckpoint held = original;
  held.Drop("b.weight_scale_inv");
  TinyTensor& weight = held.Find("b.weight");
  weight.dtype = Dtype::kBF16;
  weight.bytes = testing::RandomBytes(2 * 7 * 9, 1);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const Box box = i == 0 ? Box{0, 7, 0, 4} : Box{0, 7, 4, 9};
    ranks.Add("b.weight", Dtype::kBF16, {7, box.cols()}, BytesOfBox(weight, box), {i},
              {PartOf(weight, box)}, "dequantize");
  }
  ranks.layout.on_misaligned = "bf16";
  ranks.layout.bf16_modules = {"b"};
  ranks.Seal();
  ranks.Write(ranks_);
  const std::string list = ",\n    \"modules_to_not_convert\": [\n      \"b\"\n    ]";
  held.config.insert(held.config.find("[4, 8]") + 6, list);
  held.Write(original_);
  const MergeReport report = Merge();
  EXPECT_FALSE(report.original);
  EXPECT_THAT(report.differences,
              ElementsAre(HasSubstr("1 module (first 'b') is BF16"), HasSubstr("written anew")));
  testing::ExpectSameFiles(out_, original_);
}

TEST_F(MergeTest, WritesWhatIsHeldWhereTensorsWereDropped) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  RankShards ranks = CutForTwoRanks(original);
  TinyCheckpoint held = original;
  // All of shard 4, and one tensor of shard 1.
  for (const char* name : {"c.weight_scale_inv", "e.weight_scale_inv", "norm.weight"}) {
    ranks.Remove(name);
    ranks.layout.dropped.emplace_back(name);
    held.Drop(name);
  }
  ranks.Seal();
  ranks.Write(ranks_);
  held.Write(original_);
  const MergeReport report = Merge();
  EXPECT_FALSE(report.original);
  EXPECT_THAT(report.differences,
              ElementsAre(HasSubstr("3 tensors (first 'c.weight_scale_inv') of the original are "
                                    "not there"),
                          HasSubstr("written anew")));
  testing::ExpectSameFiles(out_, original_);
}

}  // namespace
}  // namespace dsv3::convert
