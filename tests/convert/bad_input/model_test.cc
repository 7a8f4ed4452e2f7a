#include <filesystem>
#include <string>

#include "convert/recipes/sample.h"
#include "formats/checkpoint_files.h"
#include "formats/io/file_system.h"
#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

// A deepseek_v3 checkpoint that is not what its config predicts.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNorm = "model.layers.0.input_layernorm.weight";

// A checkpoint from the disk, to be changed and written again.
TinyCheckpoint Load(const fs::path& directory) {
  TinyCheckpoint checkpoint;
  const formats::CheckpointFiles files = formats::OpenCheckpointFiles(directory);
  for (const formats::ShardFile& shard : files.shards) {
    const std::string content = ReadFile(shard.path);
    for (const formats::SafetensorsTensor& tensor : shard.header.tensors) {
      checkpoint.tensors.push_back(
          {shard.name, tensor.name, tensor.dtype, tensor.shape,
           content.substr(shard.header.data_offset + tensor.begin, tensor.end - tensor.begin)});
    }
  }
  checkpoint.config = ReadFile(directory / "config.json");
  return checkpoint;
}

class ModelTest : public BadInputTest {
 protected:
  ModelTest() {
    const fs::path sample = dir_ / "sample";
    convert::ProgressSink progress;
    convert::WriteSample({convert::SamplePreset::kTiny, 1}, sample, formats::PosixFileSystem(),
                         progress);
    checkpoint_ = Load(sample);
    fs::remove_all(sample);
  }
};

TEST_F(ModelTest, TakesWhatTheConfigPredicts) {
  WriteInput();
  EXPECT_THAT(Warnings(Convert()), ::testing::IsEmpty());
}

TEST_F(ModelTest, RefusesAMissingTensor) {
  ASSERT_EQ(checkpoint_.DropContaining(kNorm), 1u);
  WriteInput();
  const Error error = Refusal();
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_EQ(error.place().tensor, kNorm);
  EXPECT_THAT(error.message(),
              ::testing::AllOf(::testing::HasSubstr(kNorm), ::testing::HasSubstr("config.json"),
                               ::testing::HasSubstr("predicts it with shape ["),
                               ::testing::HasSubstr("download what is missing"),
                               ::testing::Not(::testing::HasSubstr("more tensor"))));
}

TEST_F(ModelTest, CountsTheOtherMissingTensors) {
  const std::size_t missing = checkpoint_.DropContaining("input_layernorm.weight");
  ASSERT_GT(missing, 2u);
  WriteInput();
  ExpectBadInput(kNorm, "(" + std::to_string(missing - 1) + " more tensors are missing");
}

TEST_F(ModelTest, RefusesAMissingWeightWhoseScaleIsThereToo) {
  ASSERT_EQ(checkpoint_.DropContaining("model.layers.0.self_attn.o_proj."), 2u);
  WriteInput();
  ExpectBadInput("'model.layers.0.self_attn.o_proj.weight'", "predicts it with shape [");
}

TEST_F(ModelTest, RefusesATensorOfAnotherShape) {
  TinyTensor& norm = checkpoint_.Find(kNorm);
  const std::string predicted = formats::ShapeToString(norm.shape);
  norm.shape.insert(norm.shape.begin(), 1);
  const std::string shard = norm.shard;
  WriteInput();
  ExpectBadInput(shard, kNorm, "has shape " + formats::ShapeToString(norm.shape),
                 "config.json (deepseek_v3) predicts " + predicted, "another model");
}

TEST_F(ModelTest, TakesTensorsThatTheConfigDoesNotPredict) {
  checkpoint_.Add(checkpoint_.tensors[0].shard, "model.layers.0.self_attn.rotary_emb.inv_freq",
                  formats::Dtype::kF32, {32});
  WriteInput();
  Convert();
  EXPECT_THAT(ReadFile(out() / "model.safetensors.index.json"),
              ::testing::HasSubstr("rotary_emb.inv_freq"));
}

}  // namespace
}  // namespace dsv3::testing
