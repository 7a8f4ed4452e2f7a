#include "convert/open/other_stacks.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/open/training_place.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/formats/support/torch_archive.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::WriteFile;

class OtherStacksTest : public ::testing::Test {
 protected:
  void Put(const std::string& name, const std::string& content = "") {
    WriteFile(dir_ / name, content);
  }
  std::string Refusal(const std::string& name = "") {
    const Error error = testing::ErrorOf([&] { FindTraining(dir_.path() / name); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    return error.message();
  }
  testing::TempDir dir_;
};

TEST_F(OtherStacksTest, AreKnownByTheirFiles) {
  const std::vector<std::pair<const char*, const char*>> files = {
      {"zero_pp_rank_0_mp_rank_00_optim_states.pt", "run the zero_to_fp32.py beside it"},
      {"bf16_zero_pp_rank_3_mp_rank_00_optim_states.pt", "run the zero_to_fp32.py beside it"},
      {"mp_rank_00_model_states.pt", "run the zero_to_fp32.py beside it"},
      {"layer_03-model_00-model_states.pt", "run the zero_to_fp32.py beside it"},
      {"model_world_size_8_rank_0.pt", "run verl's model_merger"},
      {"optim_world_size_8_rank_7.pt", "run verl's model_merger"},
      {"deepseek.nemo", "unpack it (tar -xf FILE -C DIR)"},
      {"model_state.tp00.pdparams", "weights of PaddlePaddle"},
      {"manifest.ocdbt", "checkpoint of Orbax"},
  };
  for (const auto& [name, advice] : files) {
    const std::string folder = std::string("of-") + name;
    Put(folder + '/' + name, testing::TorchArchive("", {}));
    EXPECT_THAT(Refusal(folder), HasSubstr(advice)) << name;
    EXPECT_THAT(Refusal(folder + '/' + name), HasSubstr(advice)) << name;
  }
  EXPECT_EQ(DescribeOtherFile("model.pt"), "");
  EXPECT_EQ(DescribeOtherFile("pytorch_model.bin"), "");
}

TEST_F(OtherStacksTest, AreKnownByTheirDirectories) {
  Put("ds/latest", "global_step100");
  Put("ds/global_step100/x");
  EXPECT_THAT(Refusal("ds"), HasSubstr("DeepSpeed"));
  Put("universal/latest_universal", "global_step100_universal");
  Put("universal/global_step100_universal/zero/model.norm.weight/fp32.pt");
  Put("universal/global_step100_universal/zero/model.norm.weight/exp_avg.pt");
  Put("universal/global_step100_universal/mp_rank_00_model_states.pt");
  for (const char* name : {"universal", "universal/global_step100_universal",
                           "universal/global_step100_universal/zero",
                           "universal/global_step100_universal/zero/model.norm.weight"}) {
    EXPECT_THAT(Refusal(name), HasSubstr("universal checkpoint of DeepSpeed")) << name;
  }
  Put("orbax/7/_CHECKPOINT_METADATA");
  Put("orbax/7/items/_METADATA");
  for (const char* name : {"orbax", "orbax/7", "orbax/7/items"}) {
    EXPECT_THAT(Refusal(name), HasSubstr("Orbax")) << name;
  }
}

TEST_F(OtherStacksTest, ZarrIsKnownByItsMetadataOrItsArrays) {
  Put("said/metadata.json", R"({"sharded_backend": "zarr"})");
  Put("of-megatron/common.pt");
  Put("of-megatron/decoder.final_layernorm.weight/.zarray");
  for (const char* name : {"said", "of-megatron"}) {
    EXPECT_THAT(Refusal(name), HasSubstr("Megatron's format zarr")) << name;
  }
  Put("arrays/params.norm/.zarray");
  for (const char* name : {"arrays", "arrays/params.norm"}) {
    EXPECT_THAT(Refusal(name), HasSubstr("arrays in the format zarr")) << name;
  }
}

// Also where it lies beside its checkpoint.
TEST_F(OtherStacksTest, WhatDeepSpeedsScriptWroteIsTheModel) {
  Put("zero_to_fp32.py");
  Put("latest", "global_step100");
  Put("global_step100/mp_rank_00_model_states.pt");
  Put("pytorch_model.bin");
  const auto place = FindTraining(dir_.path());
  ASSERT_TRUE(place);
  EXPECT_THAT(place->files, ::testing::ElementsAre("pytorch_model.bin"));
}

TEST_F(OtherStacksTest, TrainingCheckpointsBelowAreNamed) {
  Put("hf-trainer/pytorch_model_fsdp_0/.metadata");
  Put("hf-trainer/optimizer_0/.metadata");
  Put("hf-trainer/scheduler.pt");
  EXPECT_THAT(Refusal("hf-trainer"),
              AllOf(HasSubstr("below it: pytorch_model_fsdp_0; give the one that is wanted: "),
                    Not(HasSubstr("optimizer_0"))));
  for (const char* step : {"500", "1000", "1500", "2000", "2500", "10000"}) {
    Put(std::string("titan/step-") + step + "/.metadata");
  }
  EXPECT_THAT(Refusal("titan"),
              AllOf(HasSubstr("step-500, step-1000, step-1500, step-2000 and 2 more"),
                    HasSubstr("titan/step-10000")));
  Put("nemo/weights/.metadata");
  Put("nemo/context/model.yaml");
  EXPECT_THAT(Refusal("nemo"), HasSubstr("below it: weights;"));
  // What is in the directory itself comes first, and deeper ones are not looked for.
  Put("own/model.pt");
  Put("own/older/model.pt");
  EXPECT_TRUE(FindTraining(dir_ / "own"));
  Put("deep/a/b/c/.metadata");
  EXPECT_FALSE(FindTraining(dir_ / "deep"));
  EXPECT_FALSE(FindTraining(dir_ / "nemo/context"));
}

TEST_F(OtherStacksTest, TheStepsOfVerlAreFollowed) {
  Put("latest_checkpointed_iteration.txt", "20");
  Put("global_step_20/actor/dist_ckpt/.metadata");
  Put("global_step_20/actor/huggingface/config.json");
  EXPECT_THAT(Refusal(), HasSubstr("global_step_20/actor/dist_ckpt"));
  EXPECT_TRUE(FindTraining(dir_ / "global_step_20/actor/dist_ckpt"));
  fs::remove_all(dir_ / "global_step_20/actor/dist_ckpt");
  Put("global_step_20/actor/model_world_size_2_rank_0.pt");
  EXPECT_THAT(Refusal(), HasSubstr("model_merger"));
}

TEST_F(OtherStacksTest, FilesOfLightningAreTakenByTheirContent) {
  Put("lightning/last.ckpt", testing::TorchArchive("", {}));
  const auto place = FindTraining(dir_ / "lightning");
  ASSERT_TRUE(place);
  EXPECT_THAT(place->files, ::testing::ElementsAre("last.ckpt"));
  Put("mindspore/net.ckpt", "\x0a\x10");
  EXPECT_FALSE(FindTraining(dir_ / "mindspore"));
  EXPECT_THAT(Refusal("mindspore/net.ckpt"), HasSubstr("mindspore.ckpt_to_safetensors"));
}

}  // namespace
}  // namespace dsv3::convert
