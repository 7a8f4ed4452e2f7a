#include "convert/inspect/inspection.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "formats/error.h"
#include "formats/safetensors.h"
#include "tests/convert/model/configs.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Finding;
using formats::Shape;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class InspectTest : public ::testing::Test {
 protected:
  void WriteFile(const std::string& name, const std::string& content) {
    std::ofstream(root_ / name, std::ios::binary) << content;
  }

  // A file of zeros with these tensors.
  void WriteShard(const std::string& name, std::vector<formats::SafetensorsTensor> tensors) {
    formats::LayOutTensors(tensors);
    std::string content = formats::SerializeSafetensorsHeader(tensors, {{"format", "pt"}});
    content.resize(content.size() + (tensors.empty() ? 0 : tensors.back().end));
    WriteFile(name, content);
  }

  static formats::SafetensorsTensor Tensor(const std::string& name, Dtype dtype, Shape shape) {
    return {name, dtype, std::move(shape), 0, 0};
  }

  dsv3::testing::TempDir directory_;
  const std::filesystem::path root_ = directory_.path();
};

MATCHER_P(OfKind, kind, "") { return arg.kind == kind; }

TEST_F(InspectTest, ShowsASingleFile) {
  WriteShard("model.safetensors", {Tensor("a.0.w", Dtype::kBF16, {2, 2})});
  const Inspection inspection = Inspect(root_ / "model.safetensors");
  EXPECT_EQ(inspection.form, formats::CheckpointFiles::Form::kSingle);
  EXPECT_EQ(inspection.summary.parameters, 4U);
  EXPECT_FALSE(inspection.config);
  EXPECT_THAT(inspection.findings, Contains(OfKind("no-config")));
}

TEST_F(InspectTest, ShowsWhatTheConfigPredictsAndTheFilesLack) {
  WriteShard("model.safetensors", {Tensor("model.norm.weight", Dtype::kBF16, {9})});
  WriteFile("config.json", testing::SmallConfig().dump());
  const Inspection inspection = Inspect(root_);
  EXPECT_TRUE(inspection.config);
  EXPECT_THAT(inspection.findings, Contains(OfKind("wrong-shape")));
  EXPECT_THAT(inspection.findings, Contains(OfKind("missing-tensor")));
}

TEST_F(InspectTest, ShowsACheckpointWithAMalformedConfig) {
  WriteShard("model.safetensors", {Tensor("w", Dtype::kBF16, {2})});
  WriteFile("config.json", "{");
  const Inspection inspection = Inspect(root_);
  EXPECT_FALSE(inspection.config);
  EXPECT_THAT(inspection.findings, Contains(OfKind("bad-config")));
  EXPECT_EQ(inspection.summary.tensors, 1U);
}

TEST_F(InspectTest, ShowsTheFirstOfATensorThatStandsTwice) {
  WriteShard("a.safetensors", {Tensor("w", Dtype::kBF16, {2})});
  WriteShard("b.safetensors", {Tensor("w", Dtype::kBF16, {3}), Tensor("v", Dtype::kBF16, {1})});
  const Inspection inspection = Inspect(root_);
  EXPECT_THAT(inspection.findings, Contains(OfKind("tensor-in-two-shards")));
  EXPECT_EQ(inspection.summary.parameters, 3U);
}

TEST_F(InspectTest, FindsContradictionsBetweenWeightsAndScales) {
  WriteShard("model.safetensors",
             {Tensor("l.0.a", Dtype::kF8E4M3, {2, 2}), Tensor("l.1.a", Dtype::kF8E4M3, {2, 2}),
              Tensor("b", Dtype::kF8E4M3, {130, 2}), Tensor("b_scale_inv", Dtype::kF32, {1, 1}),
              Tensor("c", Dtype::kF8E4M3, {130, 2}), Tensor("c_scale_inv", Dtype::kF32, {2, 1})});
  WriteFile("config.json", R"({"quantization_config": {"weight_block_size": [128, 128]}})");
  const auto findings = Inspect(root_).findings;
  std::vector<std::string> scale_findings;
  for (const Finding& f : findings) {
    if (f.kind.find("scale") != std::string::npos)
      scale_findings.push_back(f.kind + " " + f.tensor);
  }
  EXPECT_THAT(scale_findings,
              ::testing::ElementsAre("wrong-scale-shape b", "missing-scale l.[0,1].a"));
}

TEST_F(InspectTest, AcceptsScalesThatFit) {
  WriteShard("model.safetensors",
             {Tensor("c", Dtype::kF8E4M3, {130, 2}), Tensor("c_scale_inv", Dtype::kF32, {2, 1})});
  WriteFile("config.json", R"({"quantization_config": {"weight_block_size": [128, 128]}})");
  EXPECT_THAT(Inspect(root_).findings, Not(Contains(OfKind("wrong-scale-shape"))));
}

TEST_F(InspectTest, RefusesWhatItCannotReadWhole) {
  WriteShard("a.safetensors", {Tensor("w", Dtype::kBF16, {2})});
  WriteFile("b.safetensors", "short");
  try {
    Inspect(root_);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kBadInput);
    EXPECT_THAT(e.message(), HasSubstr("b.safetensors"));
  }
}

TEST_F(InspectTest, SuggestsTheMostSimilarTensor) {
  WriteShard("model.safetensors", {Tensor("model.layers.0.mlp.up_proj.weight", Dtype::kU8, {1}),
                                   Tensor("model.norm.weight", Dtype::kU8, {1})});
  const Inspection inspection = Inspect(root_);
  const auto names = [&](const std::string& name_or_glob) {
    std::vector<std::string> found;
    for (const std::uint32_t position : RequireTensors(inspection, name_or_glob)) {
      found.push_back(inspection.model.catalog.tensors()[position].name);
    }
    return found;
  };
  EXPECT_THAT(names("model.norm.weight"), ElementsAre("model.norm.weight"));
  EXPECT_THAT(names("*norm*"), ElementsAre("model.norm.weight"));
  EXPECT_THAT(names("model.*"),
              ElementsAre("model.layers.0.mlp.up_proj.weight", "model.norm.weight"));
  EXPECT_THAT(names("model.layers.[0-9].*.we?ght"),
              ElementsAre("model.layers.0.mlp.up_proj.weight"));
  const auto refusal = [&](const std::string& name_or_glob) {
    try {
      RequireTensors(inspection, name_or_glob);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.message();
    }
    return std::string("no error");
  };
  EXPECT_THAT(refusal("model.layers.0.mlp.up.weight"),
              HasSubstr("'model.layers.0.mlp.up_proj.weight'"));
  EXPECT_THAT(refusal("norm*"), HasSubstr("no tensor has a name like 'norm*'"));
}

TEST_F(InspectTest, ANameWithBracketsIsTakenAsItIs) {
  WriteShard("model.safetensors", {Tensor("a[0]", Dtype::kU8, {1}), Tensor("a0", Dtype::kU8, {1})});
  const Inspection inspection = Inspect(root_);
  const std::vector<std::uint32_t> found = RequireTensors(inspection, "a[0]");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(inspection.model.catalog.tensors()[found[0]].name, "a[0]");
}

}  // namespace
}  // namespace dsv3::convert
