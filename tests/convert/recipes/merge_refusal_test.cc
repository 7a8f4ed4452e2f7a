#include <cstdint>
#include <filesystem>
#include <string>

#include "formats/message_text.h"
#include "tests/convert/recipes/merge_test.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::AddOthersWhole;
using ::testing::AllOf;
using testing::EmptyRanks;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::MergeTest;
using testing::PartOf;
using testing::PlainCheckpoint;
using testing::RankShards;
using testing::SmallFp8Checkpoint;
using testing::TinyCheckpoint;
using testing::TinyTensor;

class MergeRefusalTest : public MergeTest {};

TEST_F(MergeRefusalTest, RefusesWhatIsNoRankDirectory) {
  EXPECT_THAT(RefusalHere().message(), HasSubstr("there is no such directory"));
  SmallFp8Checkpoint().Write(ranks_);
  EXPECT_THAT(RefusalHere().message(),
              AllOf(HasSubstr(ranks_.string()), HasSubstr("no layout.json"),
                    HasSubstr("that dsv3-reshard wrote")));
}

TEST_F(MergeRefusalTest, RefusesAnOutputInsideTheRanksOrInTheirPlace) {
  CutForTwoRanks(PlainCheckpoint()).Write(ranks_);
  for (const fs::path& output : {ranks_ / "out", ranks_}) {
    request_.output = output;
    EXPECT_EQ(ErrorOf([&] { Merge(); }).code(), ErrorCode::kUsage);
  }
}

TEST_F(MergeRefusalTest, RefusesToDeleteTheRanks) {
  request_.run.delete_source_shards = true;
  const Error error = ErrorOf([&] { Merge(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--delete-source-shards"));
}

TEST_F(MergeRefusalTest, RefusesADamagedLayout) {
  CutForTwoRanks(PlainCheckpoint()).Write(ranks_);
  const std::string text = testing::ReadFile(ranks_ / "layout.json");
  testing::WriteFile(ranks_ / "layout.json", text.substr(0, text.size() / 2));
  EXPECT_THAT(RefusalHere().message(), HasSubstr("layout.json"));
  testing::WriteFile(ranks_ / "layout.json", "");
  EXPECT_THAT(RefusalHere().message(), HasSubstr("layout.json"));
}

TEST_F(MergeRefusalTest, RefusesAMissingRankFileByName) {
  CutForTwoRanks(SmallFp8Checkpoint()).Write(ranks_);
  fs::remove(ranks_ / testing::kRankFile1);
  const Error error = RefusalHere();
  EXPECT_THAT(error.message(), AllOf(HasSubstr(testing::kRankFile1), HasSubstr("no such file"),
                                     HasSubstr("copy it again")));
  EXPECT_EQ(error.place().file, testing::kRankFile1);
  fs::remove(ranks_ / testing::kRankFile0);
  EXPECT_THAT(RefusalHere().message(),
              AllOf(HasSubstr(testing::kRankFile0), HasSubstr("1 more file")));
}

TEST_F(MergeRefusalTest, RefusesATruncatedRankFile) {
  CutForTwoRanks(SmallFp8Checkpoint()).Write(ranks_);
  const fs::path path = ranks_ / testing::kRankFile0;
  const std::uint64_t bytes = fs::file_size(path);
  for (const std::uint64_t left : {bytes - 1, std::uint64_t{20}, std::uint64_t{0}}) {
    fs::resize_file(path, left);
    EXPECT_THAT(RefusalHere().message(),
                AllOf(HasSubstr(testing::kRankFile0), HasSubstr("cut off, or of another job"),
                      HasSubstr(formats::ExactBytes(bytes))));
  }
}

TEST_F(MergeRefusalTest, RefusesALongerRankFile) {
  CutForTwoRanks(SmallFp8Checkpoint()).Write(ranks_);
  const fs::path path = ranks_ / testing::kRankFile0;
  fs::resize_file(path, fs::file_size(path) + 1);
  EXPECT_THAT(RefusalHere().message(), HasSubstr("it is of another job"));
}

TEST_F(MergeRefusalTest, RefusesARankFileWithAnotherHeader) {
  const RankShards ranks = CutForTwoRanks(SmallFp8Checkpoint());
  RankShards other = ranks;
  for (TinyTensor& tensor : other.files.tensors) {
    if (tensor.name == "a.weight") tensor.name = "f.weight";
  }
  other.Write(ranks_);
  testing::WriteFile(ranks_ / "layout.json", SerializeRankLayout(ranks.layout));
  EXPECT_THAT(RefusalHere().message(),
              AllOf(HasSubstr(testing::kRankFile0), HasSubstr("the file is of another job")));
}

// The same header, other bytes: found while they are streamed.
TEST_F(MergeRefusalTest, RefusesOtherBytesInAnySlice) {
  const RankShards ranks = CutForTwoRanks(SmallFp8Checkpoint());
  for (std::size_t i = 0; i < ranks.files.tensors.size(); ++i) {
    RankShards spoiled = ranks;
    TinyTensor& tensor = spoiled.files.tensors[i];
    if (tensor.bytes.empty()) continue;
    tensor.bytes.back() = static_cast<char>(tensor.bytes.back() ^ 1);
    const Error error = RefusalOf(spoiled);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr(tensor.shard), HasSubstr(tensor.name), HasSubstr("XXH3-128")));
  }
}

TEST_F(MergeRefusalTest, RefusesOtherBytesInPadding) {
  const TinyCheckpoint original = PlainCheckpoint();
  const TinyTensor& norm = original.tensors[1];
  RankShards ranks = EmptyRanks(original);
  AddOthersWhole(original, {"norm"}, ranks);
  ranks.Add("norm", Dtype::kBF16, {8}, norm.bytes + std::string(2, '\0'), {0},
            {PartOf(norm, {0, 7, 0, 1})});
  ranks.Seal();
  ranks.files.tensors.back().bytes.back() = '\1';
  EXPECT_THAT(RefusalOf(ranks).message(), HasSubstr("norm"));
}

TEST_F(MergeRefusalTest, RefusesSideFilesThatAreNotThoseOfTheJob) {
  const RankShards ranks = CutForTwoRanks(SmallFp8Checkpoint());
  RankShards other = ranks;
  other.files.side_files["tokenizer.json"] = "{\"version\": \"1.1\"}\n";
  EXPECT_THAT(RefusalOf(other).message(), HasSubstr("tokenizer.json: the file is not the one"));
  other.files.side_files.erase("tokenizer.json");
  EXPECT_THAT(RefusalOf(other).message(), HasSubstr("tokenizer.json"));
}

TEST_F(MergeRefusalTest, GoesOnAfterTheRanksWereMended) {
  const TinyCheckpoint original = SmallFp8Checkpoint();
  const RankShards ranks = CutForTwoRanks(original);
  RankShards spoiled = ranks;
  spoiled.files.tensors[0].bytes[0] = static_cast<char>(spoiled.files.tensors[0].bytes[0] ^ 1);
  RefusalOf(spoiled);
  ranks.Write(ranks_);
  original.Write(original_);
  request_.run.overwrite = true;
  Merge();
  testing::ExpectSameFiles(out_, original_);
}

}  // namespace
}  // namespace dsv3::convert
