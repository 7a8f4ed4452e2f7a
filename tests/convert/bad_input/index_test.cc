#include <filesystem>
#include <string>
#include <vector>

#include "formats/json/json_edit.h"
#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

// The index and the shards that it lists.
namespace dsv3::testing {
namespace {

using formats::Dtype;

constexpr const char* kIndex = "model.safetensors.index.json";

using IndexTest = BadInputTest;

TEST_F(IndexTest, RefusesAMissingShard) {
  WriteInput();
  std::filesystem::remove(in() / kTinyShard2);
  ExpectBadInput(kTinyShard2, "lists this shard", "no such file", "download");
}

TEST_F(IndexTest, RefusesATensorThatItsShardLacks) {
  checkpoint_.index_text = checkpoint_.IndexText();
  const std::string known = "\"norm.weight\": \"" + std::string(kTinyShard1) + "\"";
  const std::size_t at = checkpoint_.index_text->find(known);
  ASSERT_NE(at, std::string::npos);
  checkpoint_.index_text->insert(at, "\"lost.weight\": \"" + std::string(kTinyShard1) + "\", ");
  WriteInput();
  ExpectBadInput(kTinyShard1, "'lost.weight'", "the index says", "it is in none", "download");
}

TEST_F(IndexTest, RefusesATensorThatItDoesNotList) {
  checkpoint_.index_text = checkpoint_.IndexText();
  checkpoint_.Add(kTinyShard1, "extra.weight", Dtype::kBF16, {2});
  WriteInput();
  ExpectBadInput(kTinyShard1, "'extra.weight'", "does not list it", "download");
}

TEST_F(IndexTest, RefusesATensorThatIsInAnotherShardThanListed) {
  checkpoint_.index_text = checkpoint_.IndexText();
  checkpoint_.Find("norm.weight").shard = kTinyShard2;
  WriteInput();
  ExpectBadInput(kTinyShard1, "'norm.weight'", "it is in " + std::string(kTinyShard2));
}

TEST_F(IndexTest, RefusesATensorInTwoShards) {
  checkpoint_.index_text = checkpoint_.IndexText();
  checkpoint_.Add(kTinyShard2, "norm.weight", Dtype::kBF16, {16});
  WriteInput();
  ExpectBadInput(kTinyShard2, "'norm.weight'", "in this shard and in " + std::string(kTinyShard1),
                 "one shard only");
}

TEST_F(IndexTest, RefusesATensorInTwoShardsWithoutAnIndex) {
  checkpoint_.has_index = false;
  checkpoint_.Add(kTinyShard2, "norm.weight", Dtype::kBF16, {16});
  WriteInput();
  ExpectBadInput(kTinyShard2, "'norm.weight'", kTinyShard1);
}

TEST_F(IndexTest, RefusesAnEmptyWeightMapBesideShards) {
  in_structure_ = InStructure::kRefused;
  checkpoint_.index_text = R"({"metadata": {"total_size": 0}, "weight_map": {}})";
  WriteInput();
  ExpectBadInput(kIndex, "weight_map");
}

TEST_F(IndexTest, RefusesAnIndexWithoutAWeightMap) {
  checkpoint_.index_text = R"({"metadata": {"total_size": 0}})";
  WriteInput();
  ExpectBadInput(kIndex, "weight_map", "download");
}

TEST_F(IndexTest, RefusesATensorListedTwice) {
  checkpoint_.index_text =
      R"({"weight_map": {"ids": "a.safetensors", "\u0069ds": "b.safetensors"}})";
  WriteInput();
  ExpectBadInput(kIndex, "'ids'", "listed twice", "a.safetensors", "b.safetensors");
}

TEST_F(IndexTest, RefusesWhatIsNoJson) {
  checkpoint_.index_text = "{\"weight_map\": {";
  WriteInput();
  ExpectBadInput(kIndex, "download");
}

TEST_F(IndexTest, RefusesAGitLfsPointer) {
  checkpoint_.index_text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
  WriteInput();
  ExpectBadInput(kIndex, "git-lfs pointer", "git lfs pull");
}

TEST_F(IndexTest, RefusesAnEmptyFile) {
  checkpoint_.index_text = "";
  WriteInput();
  ExpectBadInput(kIndex);
}

TEST_F(IndexTest, RefusesInvalidUtf8) {
  checkpoint_.index_text = "{\"weight_map\": {\"\xFF\": \"a.safetensors\"}}";
  WriteInput();
  ExpectBadInput(kIndex, "UTF-8");
}

TEST_F(IndexTest, RefusesDeepNesting) {
  checkpoint_.index_text = "{\"metadata\": " + std::string(5'000'000, '[');
  WriteInput();
  ExpectBadInput(kIndex);
}

TEST_F(IndexTest, RefusesATebibyteWithoutReadingIt) {
  WriteInput();
  std::filesystem::resize_file(in() / kIndex, std::uint64_t{1} << 40);
  ExpectBadInput(kIndex, "1,099,511,627,776 bytes", "download");
}

// A hostile index must not reach a file outside, whether that exists or not.
TEST_F(IndexTest, RefusesPathsThatLeaveTheDirectory) {
  WriteFile(dir_ / "outside.safetensors", checkpoint_.ShardBytes(kTinyShard3));
  const std::string absolute = (dir_ / "outside.safetensors").string();
  for (const std::string& path :
       {std::string("../outside.safetensors"), std::string("sub/../../outside.safetensors"),
        absolute, std::string("C:outside.safetensors"), std::string("..\\\\outside.safetensors"),
        std::string("sub//x.safetensors"), std::string("./x.safetensors"), std::string("..")}) {
    SCOPED_TRACE(path);
    checkpoint_.index_text = R"({"weight_map": {"ids": ")" + path + "\"}}";
    WriteInput();
    ExpectBadInput(kIndex, "'ids'", "must lie within the checkpoint's directory");
  }
}

// They would be overwritten by files of the output that have these names by right.
TEST_F(IndexTest, RefusesShardNamesThatTheOutputNeeds) {
  for (const std::string name :
       {"checkpoint.manifest.json", ".dsv3-journal", ".dsv3-lock", "x.partial",
        "sub/x.safetensors.partial", "sub/.dsv3-freed-1", ".dsv3-sub/x.safetensors"}) {
    SCOPED_TRACE(name);
    std::filesystem::remove_all(in());
    checkpoint_ = SmallFp8Checkpoint();
    for (TinyTensor& tensor : checkpoint_.tensors) {
      if (tensor.shard == kTinyShard3) tensor.shard = name;
    }
    WriteInput();
    ExpectBadInput(name + ": a shard cannot have this name", "rename");
  }
}

TEST_F(IndexTest, TakesShardsInSubdirectories) {
  for (TinyTensor& tensor : checkpoint_.tensors) {
    if (tensor.shard == kTinyShard3) tensor.shard = "sub/dir/weights.bin";
  }
  WriteInput();
  Convert();
  EXPECT_TRUE(std::filesystem::is_regular_file(out() / "sub/dir/weights.bin"));
}

TEST_F(IndexTest, OnlyWarnsOfAWrongTotalSize) {
  checkpoint_.index_text =
      formats::ReplaceJsonMember(checkpoint_.IndexText(), "metadata/total_size", "12345", kIndex);
  WriteInput();
  EXPECT_THAT(Warnings(Convert()), ::testing::Contains(::testing::AllOf(
                                       ::testing::HasSubstr(kIndex),
                                       ::testing::HasSubstr("says 12.3 kB (12,345 bytes)"))));
}

}  // namespace
}  // namespace dsv3::testing
