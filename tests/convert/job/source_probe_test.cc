// What the same command says to a finished output when IN is another checkpoint of the same form.

#include "convert/job/source_probe.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/fp8_to_bf16.h"
#include "convert/recipes/layout.h"
#include "convert/recipes/to_gguf.h"
#include "convert/recipes/train_to_infer.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using testing::Conversion;
using testing::ErrorOf;
using ::testing::HasSubstr;
using Outcome = ConversionReport::Outcome;

class SourceProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    checkpoint_.Write(dir_ / "in");
    ASSERT_EQ(Run("in").outcome, Outcome::kConverted);
  }

  ConversionReport Run(const std::string& in) const {
    return Conversion(dir_ / in, dir_ / "out").Run();
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  testing::TinyCheckpoint checkpoint_ = testing::SmallFp8Checkpoint();
};

TEST_F(SourceProbeTest, TakesTheSameCheckpointInAnotherPlace) {
  checkpoint_.Write(dir_ / "copy");
  EXPECT_EQ(Run("copy").outcome, Outcome::kNothingToDo);
}

TEST_F(SourceProbeTest, RefusesAnotherCheckpointOfTheSameForm) {
  for (testing::TinyTensor& tensor : checkpoint_.tensors) {
    if (!tensor.bytes.empty()) tensor.bytes.back() ^= 1;
  }
  checkpoint_.Write(dir_ / "tuned");
  const auto before = testing::ReadTree(dir_ / "out");
  const Error error = ErrorOf([&] { Run("tuned"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(),
              HasSubstr("holds the finished output of this command on another IN: tensor '"));
  EXPECT_THAT(error.message(),
              HasSubstr("has other bytes than the one that the output was made of; "
                        "choose another directory, or give --overwrite"));
  EXPECT_EQ(testing::ReadTree(dir_ / "out"), before);
  Conversion overwriting(dir_ / "tuned", dir_ / "out");
  overwriting.request.run.overwrite = true;
  EXPECT_EQ(overwriting.Run().outcome, Outcome::kConverted);
  EXPECT_EQ(Run("tuned").outcome, Outcome::kNothingToDo);
}

TEST_F(SourceProbeTest, LooksIntoEveryFile) {
  const auto spoil = [&](const char* shard) {
    testing::TinyCheckpoint tuned = checkpoint_;
    for (testing::TinyTensor& tensor : tuned.tensors) {
      if (tensor.shard == shard && !tensor.bytes.empty()) tensor.bytes.back() ^= 1;
    }
    fs::remove_all(dir_ / "tuned");
    tuned.Write(dir_ / "tuned");
    return ErrorOf([&] { Run("tuned"); }).message();
  };
  EXPECT_THAT(spoil(testing::kTinyShard1), HasSubstr(testing::kTinyShard1));
  EXPECT_THAT(spoil(testing::kTinyShard2), HasSubstr(testing::kTinyShard2));
}

// Of rank shards, training checkpoints and layouts the manifest has no digests of tensors that lie
// in IN as they are.
TEST_F(SourceProbeTest, RefusesAnotherModelInEveryForm) {
  for (const std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{2}}) {
    const std::string n = std::to_string(seed);
    testing::MakeSample(SamplePreset::kTinyTp, seed, dir_ / ("model" + n));
    ReshardOptions options;
    options.parallel.tp = 2;
    testing::RunReshard(dir_ / ("model" + n), dir_ / ("ranks" + n), options);
    Conversion(dir_ / ("model" + n), dir_ / ("training" + n),
               LayoutConversion({.to = "mindformers-train"}))
        .Run();
  }
  int outputs = 0;
  const auto expect_refused = [&](const std::string& form, const ConversionKind& kind) {
    const Conversion first(dir_ / (form + "1"), dir_ / ("out" + std::to_string(outputs++)), kind);
    EXPECT_EQ(first.Run().outcome, Outcome::kConverted);
    EXPECT_EQ(first.Run().outcome, Outcome::kNothingToDo);
    Conversion other = first;
    other.request.input = dir_ / (form + "2");
    EXPECT_THAT(ErrorOf([&] { other.Run(); }).message(),
                HasSubstr("the finished output of this command on another IN: tensor '"))
        << form << " " << kind.title;
  };
  expect_refused("model", LayoutConversion({.to = "hf"}));
  expect_refused("model", LayoutConversion({.to = "mindformers-mcore-v2"}));
  expect_refused("training", LayoutConversion({.to = "deepseek"}));
  expect_refused("training", TrainToInferConversion());
  expect_refused("ranks", Fp8ToBf16Conversion());
  testing::RunMerge(dir_ / "ranks1", dir_ / "merged");
  EXPECT_EQ(testing::RunMerge(dir_ / "ranks1", dir_ / "merged").conversion.outcome,
            Outcome::kNothingToDo);
  EXPECT_THAT(ErrorOf([&] { testing::RunMerge(dir_ / "ranks2", dir_ / "merged"); }).message(),
              HasSubstr("on another IN: tensor '"));
}

// The file's header says the directory's name, which is the same here.
TEST_F(SourceProbeTest, RefusesAnotherModelForAFile) {
  testing::MakeSample(SamplePreset::kTiny, 1, dir_ / "a" / "model");
  fs::create_directory(dir_ / "b");
  fs::copy(dir_ / "a" / "model", dir_ / "b" / "model");
  for (const fs::directory_entry& entry : fs::directory_iterator(dir_ / "b" / "model")) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = testing::ReadFile(entry.path());
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    for (std::size_t i = sizeof(header) + header; i < bytes.size(); i += 4) bytes[i] ^= 1;
    testing::WriteFile(entry.path(), bytes);
  }
  ToGgufOptions options;
  options.type = formats::GgufType::kQ8_0;
  Conversion made(dir_ / "a" / "model", dir_ / "model.gguf", ToGgufConversion(options));
  EXPECT_EQ(made.Run().outcome, Outcome::kConverted);
  EXPECT_EQ(made.Run().outcome, Outcome::kNothingToDo);
  const std::string before = testing::ReadFile(dir_ / "model.gguf");
  made.request.input = dir_ / "b" / "model";
  const Error error = ErrorOf([&] { made.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("this command made the file of another IN: tensor '"));
  EXPECT_EQ(testing::ReadFile(dir_ / "model.gguf"), before);
  made.request.run.overwrite = true;
  EXPECT_EQ(made.Run().outcome, Outcome::kConverted);
  EXPECT_NE(testing::ReadFile(dir_ / "model.gguf"), before);
}

}  // namespace
}  // namespace dsv3::convert
