#include "convert/open/training_place.h"

#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/formats/support/torch_archive.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = TrainingPlace::Kind;
using testing::WriteFile;

class TrainingPlaceTest : public ::testing::Test {
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

TEST_F(TrainingPlaceTest, TakesAFileOfTorchByItsContent) {
  Put("weights", testing::TorchArchive("", {}));
  Put("weights.pt", "text");
  const auto place = FindTraining(dir_ / "weights");
  ASSERT_TRUE(place);
  EXPECT_EQ(place->kind, Kind::kTorchFiles);
  EXPECT_EQ(place->directory, dir_.path());
  EXPECT_THAT(place->files, ElementsAre("weights"));
  EXPECT_FALSE(FindTraining(dir_ / "weights.pt"));
}

TEST_F(TrainingPlaceTest, RefusesAFileBeforeTorch16) {
  Put("old.pt", std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15));
  EXPECT_THAT(Refusal("old.pt"), HasSubstr("before PyTorch 1.6"));
}

TEST_F(TrainingPlaceTest, TakesTheFilesThatAnIndexLists) {
  Put("pytorch_model-00001-of-00002.bin");
  Put("pytorch_model-00002-of-00002.bin");
  Put("other.bin");
  Put("pytorch_model.bin.index.json",
      R"({"metadata":{},"weight_map":{"b":"pytorch_model-00002-of-00002.bin",)"
      R"("a":"pytorch_model-00001-of-00002.bin","c":"pytorch_model-00001-of-00002.bin"}})");
  const auto place = FindTraining(dir_.path());
  ASSERT_TRUE(place);
  EXPECT_THAT(place->files,
              ElementsAre("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"));
}

TEST_F(TrainingPlaceTest, RefusesAnIndexThatListsAMissingFileOrAnotherPlace) {
  Put("pytorch_model.bin.index.json", R"({"weight_map":{"a":"pytorch_model-1.bin"}})");
  EXPECT_THAT(Refusal(), HasSubstr("download what is missing"));
  Put("pytorch_model.bin.index.json", R"({"weight_map":{"a":"../model.bin"}})");
  EXPECT_THAT(Refusal(), HasSubstr("not the name of a file"));
}

TEST_F(TrainingPlaceTest, TakesOneFileAmongStatesOfTraining) {
  Put("model.pt");
  Put("optimizer.pt");
  for (const char* name : {"rng_state.pth", "training_args.bin", "sampler.bin", "dl_state_dict.bin",
                           "scheduler.pt", "recipe_state.pt"}) {
    Put(name);
  }
  const auto place = FindTraining(dir_.path());
  ASSERT_TRUE(place);
  EXPECT_THAT(place->files, ElementsAre("model.pt"));
  Put("another.pt");
  EXPECT_FALSE(FindTraining(dir_.path()));
}

TEST_F(TrainingPlaceTest, PrefersSafetensors) {
  Put("pytorch_model.bin");
  Put("model.safetensors");
  EXPECT_FALSE(FindTraining(dir_.path()));
}

TEST_F(TrainingPlaceTest, FollowsTheLatestIteration) {
  Put("latest_checkpointed_iteration.txt", "7\n");
  Put("iter_0000007/.metadata");
  Put("release/.metadata");
  EXPECT_EQ(FindTraining(dir_.path()).value().directory, dir_ / "iter_0000007");
  Put("latest_checkpointed_iteration.txt", "release");
  EXPECT_EQ(FindTraining(dir_.path()).value().directory, dir_ / "release");
  EXPECT_EQ(FindTraining(dir_ / "iter_0000007").value().kind, Kind::kDcp);
}

TEST_F(TrainingPlaceTest, RefusesALatestIterationThatIsNone) {
  Put("latest_checkpointed_iteration.txt", "8");
  EXPECT_THAT(Refusal(), HasSubstr("iter_0000008"));
  Put("latest_checkpointed_iteration.txt", "../x");
  EXPECT_THAT(Refusal(), HasSubstr("expected the number of an iteration"));
}

TEST_F(TrainingPlaceTest, TakesTheFilesOfMegatronsRanks) {
  Put("latest_checkpointed_iteration.txt", "7");
  Put("iter_0000007/mp_rank_01/model_optim_rng.pt", testing::TorchArchive("", {}));
  Put("iter_0000007/mp_rank_00/model_optim_rng.pt");
  Put("iter_0000007/mp_rank_00/distrib_optim.pt");
  // One rank stands for all.
  for (const char* input : {"", "iter_0000007", "iter_0000007/", "iter_0000007/mp_rank_00",
                            "iter_0000007/mp_rank_01/model_optim_rng.pt"}) {
    const auto place = FindTraining(dir_ / input);
    ASSERT_TRUE(place) << input;
    EXPECT_EQ(place->kind, Kind::kMegatronRanks);
    EXPECT_EQ(place->directory, dir_ / "iter_0000007");
    EXPECT_THAT(place->files,
                ElementsAre("mp_rank_00/model_optim_rng.pt", "mp_rank_01/model_optim_rng.pt"));
  }
  Put("iter_0000007/mp_rank_02/distrib_optim.pt");
  EXPECT_THAT(Refusal(), HasSubstr("mp_rank_02/model_optim_rng.pt: there is no such file"));
}

}  // namespace
}  // namespace dsv3::convert
