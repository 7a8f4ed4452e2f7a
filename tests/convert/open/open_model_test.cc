#include "convert/open/open_model.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/model_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/safetensors.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/rank_shards.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::AddOthersWhole;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::EmptyRanks;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kRankFile0;
using testing::kRankFile1;
using testing::PartOf;
using testing::PlainCheckpoint;
using testing::RankShards;
using ::testing::SizeIs;
using testing::SmallFp8Checkpoint;
using testing::TinyCheckpoint;
using testing::TinyTensor;

class OpenModelTest : public ::testing::Test {
 protected:
  OpenedModel Open(const RankShards& ranks) const {
    fs::remove_all(in_);
    ranks.Write(in_);
    return OpenModel(in_);
  }

  // What is said of ranks that are refused.
  std::string RefusalOf(const RankShards& ranks) const {
    const Error error = testing::ErrorOf([&] { Open(ranks); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
    return error.message();
  }

  // The same for the ranks of SmallFp8Checkpoint with one change.
  template <typename Change>
  std::string RefusalAfter(const Change& change) const {
    RankShards ranks = CutForTwoRanks(SmallFp8Checkpoint());
    change(ranks);
    return RefusalOf(ranks);
  }

  const testing::TempDir dir_;
  const fs::path in_ = dir_ / "in";
};

std::vector<formats::LayoutTensor*> SlicesOf(RankShards& ranks, const std::string& name) {
  std::vector<formats::LayoutTensor*> slices;
  for (formats::LayoutTensor& tensor : ranks.layout.tensors) {
    if (tensor.name == name) slices.push_back(&tensor);
  }
  return slices;
}

TEST_F(OpenModelTest, OpensACheckpointAsItIs) {
  const TinyCheckpoint checkpoint = SmallFp8Checkpoint();
  checkpoint.Write(in_);
  EXPECT_FALSE(IsRankDirectory(in_));
  const OpenedModel model = OpenModel(in_);
  EXPECT_EQ(model.ranks, nullptr);
  EXPECT_THAT(TensorsOf(model).derived, IsEmpty());
  const ModelFiles files = ReadModelFiles(model);
  EXPECT_EQ(files.index, checkpoint.IndexText());
  EXPECT_EQ(model.config_text, checkpoint.config);
  ASSERT_THAT(files.headers, SizeIs(4));
  for (std::size_t i = 0; i < files.headers.size(); ++i) {
    const std::string& header = files.headers[i];
    const std::string file = checkpoint.ShardBytes(model.catalog.files()[i].name);
    EXPECT_EQ(header, file.substr(0, header.size()));
    EXPECT_EQ(formats::Xxh3Hex(testing::AsBytes(header)), model.catalog.files()[i].header_digest);
  }
  for (std::uint32_t i = 0; i < model.catalog.tensors().size(); ++i) {
    EXPECT_EQ(OriginOf(model, i)->rule(), "copy");
    EXPECT_THAT(OriginOf(model, i)->streamed_sources(), ElementsAre(i));
  }
}

TEST_F(OpenModelTest, OpensCheckpointsWithoutAnIndex) {
  TinyCheckpoint checkpoint = PlainCheckpoint();
  checkpoint.Write(in_);
  EXPECT_EQ(ReadModelFiles(OpenModel(in_)).index, std::nullopt);
  EXPECT_EQ(ReadModelFiles(OpenModel(in_ / "model.safetensors")).index, std::nullopt);
  // The index of other files beside it.
  testing::WriteFile(in_ / "model.safetensors.index.json", SmallFp8Checkpoint().IndexText());
  EXPECT_EQ(ReadModelFiles(OpenModel(in_ / "model.safetensors")).index, std::nullopt);
}

TEST_F(OpenModelTest, NamesTheTensorsOfRanksByTheirFiles) {
  const RankShards ranks = CutForTwoRanks(SmallFp8Checkpoint());
  const OpenedModel model = Open(ranks);
  EXPECT_TRUE(IsRankDirectory(in_));
  const Catalog& catalog = model.ranks->stored;
  ASSERT_EQ(catalog.tensors().size(), ranks.files.tensors.size());
  for (const TinyTensor& tensor : ranks.files.tensors) {
    const std::uint32_t position = catalog.Find(tensor.shard + "/" + tensor.name);
    ASSERT_NE(position, Catalog::kNone) << tensor.name;
    const CatalogTensor& found = catalog.tensors()[position];
    EXPECT_EQ(found.dtype, tensor.dtype);
    EXPECT_EQ(found.shape, tensor.shape);
    EXPECT_EQ(catalog.files()[found.extent.file].name, tensor.shard);
    const std::string file = testing::ReadFile(in_ / tensor.shard);
    EXPECT_EQ(file.substr(found.extent.offset, found.extent.length), tensor.bytes);
    EXPECT_EQ(model.ranks->digests.at(position), formats::Xxh3Hex(testing::AsBytes(tensor.bytes)));
  }
  EXPECT_THAT(model.side_files, ElementsAre("README.md", "code/modeling_tiny.py", "config.json",
                                            "empty.txt", "tokenizer.json"));
}

TEST_F(OpenModelTest, GivesTheModelThatRanksWereCutFrom) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  original.Write(dir_ / "original");
  const OpenedModel expected = OpenModel(dir_ / "original");
  const OpenedModel model = Open(CutForTwoRanks(original));
  EXPECT_TRUE(model.ranks->is_original);
  EXPECT_EQ(model.ranks->headers, ReadModelFiles(expected).headers);
  EXPECT_EQ(model.ranks->index, ReadModelFiles(expected).index);
  EXPECT_EQ(model.config_text, original.config);
  ASSERT_EQ(model.catalog.tensors().size(), expected.catalog.tensors().size());
  ASSERT_EQ(model.ranks->origins.size(), model.catalog.tensors().size());
  for (std::size_t i = 0; i < model.ranks->origins.size(); ++i) {
    const CatalogTensor& tensor = model.catalog.tensors()[i];
    EXPECT_EQ(tensor.name, expected.catalog.tensors()[i].name);
    EXPECT_EQ(tensor.extent.file, expected.catalog.tensors()[i].extent.file);
    EXPECT_EQ(model.ranks->origins[i]->dtype(), tensor.dtype);
    EXPECT_EQ(model.ranks->origins[i]->shape(), tensor.shape);
  }
  for (std::size_t i = 0; i < model.catalog.files().size(); ++i) {
    EXPECT_EQ(model.catalog.files()[i].header_digest, expected.catalog.files()[i].header_digest);
    EXPECT_EQ(model.catalog.files()[i].bytes, expected.catalog.files()[i].bytes);
  }
}

TEST_F(OpenModelTest, ReadsOneOfSeveralCopies) {
  const OpenedModel model = Open(CutForTwoRanks(SmallFp8Checkpoint()));
  const Catalog& catalog = model.ranks->stored;
  const ExpressionPtr& scalar = model.ranks->origins[model.catalog.Find("scalar")];
  EXPECT_EQ(scalar->rule(), "copy");
  EXPECT_THAT(scalar->streamed_sources(),
              ElementsAre(catalog.Find(std::string(kRankFile0) + "/scalar")));
  const ExpressionPtr& cut = model.ranks->origins[model.catalog.Find("a.weight")];
  EXPECT_EQ(cut->rule(), "assemble");
  EXPECT_THAT(cut->streamed_sources(),
              ElementsAre(catalog.Find(std::string(kRankFile0) + "/a.weight"),
                          catalog.Find(std::string(kRankFile1) + "/a.weight")));
}

TEST_F(OpenModelTest, TellsOfWhatIsHeldWhereMtpLayersWereDropped) {
  TinyCheckpoint original = PlainCheckpoint();
  original.has_index = true;
  original.config.insert(original.config.rfind("\n}"),
                         ",\n  \"num_hidden_layers\": 2,\n  \"num_nextn_predict_layers\": 1");
  original.Add("model.safetensors", "model.layers.1.x", Dtype::kF32, {2});
  original.Add("model.safetensors", "model.layers.2.x", Dtype::kF32, {2});
  original.Add("mtp.safetensors", "model.layers.2.y", Dtype::kF32, {2});
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {"model.layers.2.x", "model.layers.2.y"}, ranks);
  ranks.layout.dropped = {"model.layers.2.x", "model.layers.2.y"};
  ranks.Seal();
  std::string& original_header = ranks.layout.source_files[0].header;
  original_header.replace(original_header.find("\"pt\""), 4, "\"np\"");
  const OpenedModel model = Open(ranks);
  EXPECT_FALSE(model.ranks->is_original);
  EXPECT_EQ(model.catalog.Find("model.layers.2.x"), Catalog::kNone);
  EXPECT_NE(model.catalog.Find("model.layers.1.x"), Catalog::kNone);
  EXPECT_THAT(model.ranks->headers, SizeIs(1));
  EXPECT_EQ(model.ranks->origins.size(), 4U);
  TinyCheckpoint held = original;
  held.DropContaining("model.layers.2.");
  EXPECT_EQ(model.ranks->index, held.IndexText());
  const std::string& header = model.ranks->headers[0];
  std::string expected = held.ShardBytes("model.safetensors").substr(0, header.size());
  expected.replace(expected.find("\"pt\""), 4, "\"np\"");
  EXPECT_EQ(header, expected);
  EXPECT_THAT(model.config_text, HasSubstr("\"num_nextn_predict_layers\": 0"));
  EXPECT_EQ(model.config.num_nextn_predict_layers, 0U);
}

TEST_F(OpenModelTest, WarnsOfFilesOfOtherJobs) {
  const RankShards ranks = CutForTwoRanks(PlainCheckpoint());
  ranks.Write(in_);
  testing::WriteFile(in_ / "other.safetensors", "");
  const OpenedModel model = OpenModel(in_);
  ASSERT_FALSE(model.findings.empty());
  EXPECT_THAT(model.findings[0].message, HasSubstr("other.safetensors"));
}

TEST_F(OpenModelTest, RefusesATableThatContradictsTheFiles) {
  EXPECT_THAT(
      RefusalAfter([](RankShards& r) { SlicesOf(r, "router.bias")[0]->dtype = Dtype::kI32; }),
      AllOf(HasSubstr("'router.bias'"), HasSubstr("I32 [3], but is F32 [3]"),
            HasSubstr(kRankFile0)));
  EXPECT_THAT(RefusalAfter([](RankShards& r) {
                SlicesOf(r, "router.bias")[0]->shape = {3, 1};
              }),
              HasSubstr("F32 [3, 1], but is F32 [3]"));
  EXPECT_THAT(RefusalAfter([](RankShards& r) { SlicesOf(r, "mask")[0]->files = {1}; }),
              AllOf(HasSubstr("'mask' is not listed"), HasSubstr(kRankFile0)));
  EXPECT_THAT(RefusalAfter([](RankShards& r) { SlicesOf(r, "a.weight")[0]->name = "0"; }),
              HasSubstr("'0' is said to be in a file that does not hold it"));
  EXPECT_THAT(RefusalAfter([](RankShards& r) {
                auto extra = *SlicesOf(r, "scalar")[0];
                extra.name = "zzz";
                r.layout.tensors.push_back(extra);
              }),
              HasSubstr("'zzz' is said to be in a file that does not hold it"));
}

TEST_F(OpenModelTest, RefusesSlicesThatDoNotGiveTheTensor) {
  // b.weight is cut by rows, rank 1 holds rows 3 to 7.
  const auto second = [](RankShards& r) -> formats::LayoutPart& {
    return SlicesOf(r, "b.weight")[1]->parts[0];
  };
  EXPECT_THAT(
      RefusalAfter([&](RankShards& r) { second(r).row_begin -= 1, second(r).row_end -= 1; }),
      AllOf(HasSubstr("'b.weight'"), HasSubstr("come from both"), HasSubstr(kRankFile1)));
  EXPECT_THAT(RefusalAfter([&](RankShards& r) { second(r).row_end -= 1; }),
              AllOf(HasSubstr("'b.weight'"), HasSubstr("no file holds rows 6 to 7")));
  EXPECT_THAT(
      RefusalAfter([&](RankShards& r) { second(r).row_begin += 1, second(r).row_end += 1; }),
      AllOf(HasSubstr("b.weight"), HasSubstr("rows 4 to 8"), HasSubstr(kRankFile1)));
  EXPECT_THAT(
      RefusalAfter([&](RankShards& r) { second(r).name = "none"; }),
      AllOf(HasSubstr("'b.weight'"), HasSubstr("'none', which is in no header of the original")));
  EXPECT_THAT(RefusalAfter([&](RankShards& r) { second(r).col_end -= 1; }),
              HasSubstr("do not lie on its rows"));
  EXPECT_THAT(RefusalAfter([](RankShards& r) { SlicesOf(r, "b.weight")[1]->rule = "dequantize"; }),
              HasSubstr("'b.weight' was made by two rules"));
}

TEST_F(OpenModelTest, RefusesRanksWithoutATensor) {
  EXPECT_THAT(RefusalAfter([](RankShards& r) {
                r.Remove("norm.weight");
                r.Seal();
              }),
              HasSubstr("'norm.weight' is in no rank file, and is not said to be dropped"));
  EXPECT_THAT(
      RefusalAfter([](RankShards& r) {
        const auto slices = SlicesOf(r, "a.weight");
        std::erase_if(r.files.tensors, [](const TinyTensor& tensor) {
          return tensor.name == "a.weight" && tensor.shard == kRankFile1;
        });
        r.layout.tensors.erase(r.layout.tensors.begin() + (slices[1] - r.layout.tensors.data()));
        r.Seal();
      }),
      AllOf(HasSubstr("'a.weight'"), HasSubstr("no file holds rows 4 to 10")));
}

TEST_F(OpenModelTest, RefusesCopiesThatDiffer) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& gate = original.tensors[0];
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {}, ranks);
  ranks.Add("alias", Dtype::kBF16, {6, 5}, std::string(60, 'x'), {1}, {PartOf(gate, {0, 6, 0, 5})});
  ranks.Seal();
  EXPECT_THAT(RefusalOf(ranks), HasSubstr("has two copies of one slice"));
}

TEST_F(OpenModelTest, RefusesElementsOfLessThanAByte) {
  TinyCheckpoint original = PlainCheckpoint();
  original.Add("model.safetensors", "packed", Dtype::kF4, {4, 2});
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {}, ranks);
  ranks.Seal();
  EXPECT_THAT(RefusalOf(ranks), HasSubstr("'packed' has elements of less than a byte"));
}

TEST_F(OpenModelTest, RefusesAnOriginalThatContradictsItself) {
  const auto source = [](RankShards& r) -> formats::LayoutSourceFile& {
    return r.layout.source_files[0];
  };
  EXPECT_THAT(RefusalAfter([&](RankShards& r) { source(r).header.resize(9); }),
              AllOf(HasSubstr("layout.json: the header of"), HasSubstr(testing::kTinyShard1)));
  EXPECT_THAT(RefusalAfter([&](RankShards& r) { source(r).bytes += 1; }),
              AllOf(HasSubstr("layout.json: the header of"), HasSubstr(testing::kTinyShard1)));
  EXPECT_THAT(RefusalAfter([&](RankShards& r) { r.layout.source_files.pop_back(); }),
              HasSubstr("lists other files than"));
  EXPECT_THAT(RefusalAfter([&](RankShards& r) {
                r.layout.source_files.push_back(source(r));
                r.layout.source_files.back().name = "model-9.safetensors";
                r.layout.source_index.reset();
              }),
              AllOf(HasSubstr("layout.json: "), HasSubstr("model-9.safetensors")));
  EXPECT_THAT(RefusalAfter([](RankShards& r) {
                std::string& index = *r.layout.source_index;
                index.replace(index.find("\"a.weight\""), 10, "\"A.weight\"");
              }),
              AllOf(HasSubstr("layout.json: "), HasSubstr("'a.weight'"), HasSubstr("the index")));
  EXPECT_THAT(RefusalAfter([](RankShards& r) { r.layout.source_index = "[]"; }),
              HasSubstr("layout.json: the index"));
  EXPECT_THAT(RefusalAfter([](RankShards& r) { r.layout.source_config = "{"; }),
              HasSubstr("layout.json: the config"));
}

TEST_F(OpenModelTest, RefusesNamesThatAreTaken) {
  for (const char* name : {"config.json", "README.md", "checkpoint.manifest.json", "a.partial"}) {
    TinyCheckpoint original = PlainCheckpoint();
    original.side_files["README.md"] = "";
    RankShards ranks = CutForTwoRanks(original);
    ranks.layout.source_files[0].name = name;
    EXPECT_THAT(RefusalOf(ranks), AllOf(HasSubstr(name), HasSubstr("cannot be the name")));
  }
  TinyCheckpoint original = PlainCheckpoint();
  original.side_files[".dsv3-journal"] = "";
  EXPECT_THAT(RefusalOf(CutForTwoRanks(original)), HasSubstr("cannot be the name of a side file"));
}

}  // namespace
}  // namespace dsv3::convert
