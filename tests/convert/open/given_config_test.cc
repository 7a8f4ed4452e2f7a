// The config that a command names, for inputs that have none.

#include <filesystem>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/progress.h"
#include "convert/inspect/inspection.h"
#include "convert/open/open_model.h"
#include "convert/recipes/layout.h"
#include "convert/verify/compare.h"
#include "convert/verify/numeric.h"
#include "convert/verify/structure.h"
#include "formats/error.h"
#include "tests/convert/recipes/train_to_infer_test.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class GivenConfigTest : public TrainToInferTest {
 protected:
  void SetUp() override {
    hf_ = Bf16Sample();
    train_ = dir_ / "train";
    Conversion(hf_, train_, convert::LayoutConversion({.to = "mindformers-train"})).Run();
    fs::remove(train_ / "config.json");
    config_ = hf_ / "config.json";
  }

  static convert::NumericReport Numeric(const fs::path& input, const fs::path& config) {
    convert::ProgressSink progress;
    return convert::VerifyNumeric({.input = input, .config = config, .histogram = {}}, progress,
                                  {});
  }
  static convert::StructureReport Structure(const fs::path& input, const fs::path& config) {
    return convert::VerifyStructure({.input = input, .config = config});
  }
  static convert::CompareReport Compare(const fs::path& a, const fs::path& b,
                                        const fs::path& config) {
    convert::ProgressSink progress;
    return convert::CompareCheckpoints({.a = a, .b = b, .config = config}, progress, {});
  }

  fs::path hf_;
  fs::path train_;
  fs::path config_;
};

TEST_F(GivenConfigTest, IsAskedForByItsOption) {
  for (const Error& error :
       {ErrorOf([&] { convert::Inspect(train_); }), ErrorOf([&] { Numeric(train_, ""); }),
        ErrorOf([&] { Structure(train_, ""); }), ErrorOf([&] { Compare(hf_, train_, ""); }),
        ErrorOf([&] { Convert(train_, dir_ / "o"); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.message();
    EXPECT_THAT(error.message(), HasSubstr("there is no config.json beside it"));
    EXPECT_THAT(error.message(), HasSubstr("or name it with --config FILE"));
  }
  // fp8-to-bf16 has no such option.
  const Error other = ErrorOf([&] { Conversion(train_, dir_ / "o").Run(); });
  EXPECT_THAT(other.message(), HasSubstr("copy the model's config.json"));
  EXPECT_THAT(other.message(), Not(HasSubstr("--config")));
}

TEST_F(GivenConfigTest, OpensATrainingCheckpoint) {
  const convert::Inspection shown = convert::Inspect(train_, {.config = config_});
  EXPECT_EQ(shown.model.catalog.tensors().size(),
            convert::Inspect(hf_).model.catalog.tensors().size());
  EXPECT_TRUE(Numeric(train_, config_).verification.Passes(false));
  EXPECT_THAT(Structure(train_, config_).verification.findings, IsEmpty());
  for (const auto& [a, b] : {std::pair(train_, hf_), std::pair(hf_, train_)}) {
    const convert::CompareReport compared = Compare(a, b, config_);
    EXPECT_EQ(compared.counts.identical_values + compared.counts.identical_bytes,
              compared.tensors.size());
  }
}

TEST_F(GivenConfigTest, OpensAHuggingFaceCheckpointWithoutOne) {
  const fs::path bare = dir_ / "bare";
  fs::copy(hf_, bare);
  fs::remove(bare / "config.json");
  const Error missing = ErrorOf([&] { Convert(bare, dir_ / "out"); });
  EXPECT_THAT(missing.message(), HasSubstr("or name it with --config FILE"));
  Convert(bare, dir_ / "out", {.config = config_});
  EXPECT_TRUE(ReadCheckpoint(dir_ / "out") == ReadCheckpoint(hf_));
  EXPECT_EQ(ReadFile(dir_ / "out" / "config.json"), ReadFile(config_));
  EXPECT_TRUE(convert::Inspect(bare, {.config = config_}).config.has_value());
  EXPECT_TRUE(Numeric(bare, config_).verification.Passes(false));
  EXPECT_THAT(Structure(bare, config_).verification.findings, IsEmpty());
}

TEST_F(GivenConfigTest, IsRefusedBesideAnother) {
  for (const Error& error :
       {ErrorOf([&] { convert::Inspect(hf_, {.config = config_}); }),
        ErrorOf([&] { Numeric(hf_, config_); }), ErrorOf([&] { Structure(hf_, config_); }),
        ErrorOf([&] { Compare(hf_, hf_, config_); }),
        ErrorOf([&] { Convert(hf_, dir_ / "out", {.config = config_}); })}) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.message();
    EXPECT_THAT(error.message(), HasSubstr("has a config.json of its own"));
  }
}

TEST_F(GivenConfigTest, StackMustBeTheCheckpoints) {
  const Error error = ErrorOf([&] { convert::Inspect(hf_, {.from = convert::Stack::kMegatron}); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("leave out --from"));
}

// Who fetched the config first would have done so for nothing.
TEST_F(GivenConfigTest, IsNotAskedForWhereTheFileIsNotRead) {
  fs::create_directory(dir_ / "old");
  WriteFile(dir_ / "old" / "model.pt",
            std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15));
  const Error error = ErrorOf([&] { Convert(dir_ / "old", dir_ / "out"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_THAT(error.message(), HasSubstr("before PyTorch 1.6"));
}

}  // namespace
}  // namespace dsv3::testing
