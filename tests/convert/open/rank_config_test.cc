#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/reshard_job.h"
#include "formats/json/json_edit.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::OnMisaligned;
using convert::ReshardOptions;
using convert::ReshardReport;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
using Tensors = std::map<std::string, HeldTensor>;

// What ranks hold otherwise than the model does, and what config.json tells of it. The tiny-tp
// preset: MTP layer 4, experts of 256 × 192 in blocks of 128.
class ReshardConfigTest : public ::testing::Test {
 protected:
  ReshardConfigTest() { MakeSample(convert::SamplePreset::kTinyTp, 7, model()); }

  fs::path model() const { return dir_ / "model"; }
  fs::path out() const { return dir_ / "out"; }

  static ReshardOptions Options(std::uint64_t tp, std::uint64_t ep) {
    ReshardOptions options;
    options.parallel.tp = tp;
    options.parallel.ep = ep;
    return options;
  }
  ReshardReport Run(const ReshardOptions& options) const {
    return RunReshard(model(), out(), options);
  }
  Json Layout() const { return Json::parse(ReadFile(out() / "layout.json")); }
  Json Config() const { return Json::parse(ReadFile(out() / "config.json")); }

  TempDir dir_{MemoryDirectory()};
};

TEST_F(ReshardConfigTest, DroppedMtpLayersAreNowhereAndTheConfigSaysSo) {
  ReshardOptions options = Options(2, 4);
  options.keep_mtp = false;
  const ReshardReport report = Run(options);
  for (const auto& [name, tensor] : ReadTensors(out(), report.ranks.at(0).files)) {
    EXPECT_THAT(name, Not(HasSubstr("layers.4.")));
  }
  EXPECT_EQ(Config()["num_nextn_predict_layers"], 0);
  EXPECT_EQ(Layout()["dropped"].size(), report.dropped.size());
  EXPECT_THAT(report.dropped, ::testing::Contains("model.layers.4.eh_proj.weight"));
}

TEST_F(ReshardConfigTest, TheConfigIsTheOriginalWhereNothingInItChanges) {
  Run(Options(2, 4));
  EXPECT_EQ(ReadFile(out() / "config.json"), ReadFile(model() / "config.json"));
}

TEST_F(ReshardConfigTest, SubblocksAreCutAndTheConfigSaysSo) {
  ReshardOptions options = Options(4, 1);  // 64 of an expert's 256 rows
  options.on_misaligned = OnMisaligned::kSubblock;
  const ReshardReport report = Run(options);
  EXPECT_EQ(Config()["quantization_config"]["weight_block_size"], Json({64, 64}));
  const Tensors source = ReadCheckpoint(model());
  const Tensors held = ReadTensors(out(), report.ranks.at(3).files);
  const std::string name = "model.layers.1.mlp.experts.5.up_proj.weight_scale_inv";
  // Rows 192 to 255 are in the second block of 128 rows; its columns are 192: blocks 0, 0, 1.
  const HeldTensor& whole = source.at(name);
  const HeldTensor& cut = held.at(name);
  EXPECT_EQ(cut.shape, (formats::Shape{1, 3}));
  EXPECT_EQ(cut.bytes,
            whole.bytes.substr(8, 4) + whole.bytes.substr(8, 4) + whole.bytes.substr(12));
}

TEST_F(ReshardConfigTest, Bf16ConvertsTheseModulesOnlyAndListsThem) {
  ReshardOptions options = Options(4, 1);
  options.on_misaligned = OnMisaligned::kBF16;
  const ReshardReport report = Run(options);
  Conversion(model(), dir_ / "bf16").Run();
  const Tensors dequantized = ReadCheckpoint(dir_ / "bf16");
  const Tensors source = ReadCheckpoint(model());
  const Tensors held = ReadTensors(out(), report.ranks.at(1).files);
  const std::string expert = "model.layers.1.mlp.experts.5.up_proj";
  EXPECT_EQ(held.at(expert + ".weight"),
            CutOut(dequantized.at(expert + ".weight"), 64, 64, 0, 192));
  EXPECT_EQ(held.count(expert + ".weight_scale_inv"), 0U);
  const std::string o_proj = "model.layers.1.self_attn.o_proj.weight";
  EXPECT_EQ(held.at(o_proj), CutOut(source.at(o_proj), 0, 192, 256, 256));
  const Json listed = Config()["quantization_config"]["modules_to_not_convert"];
  EXPECT_THAT(listed, ::testing::Contains(Json(expert)));
  EXPECT_THAT(listed, Not(::testing::Contains(Json("model.layers.1.self_attn.o_proj"))));
}

TEST_F(ReshardConfigTest, Bf16ListsModulesWhereTheConfigListsThem) {
  const std::string config = ReadFile(model() / "config.json");
  WriteFile(model() / "config.json",
            formats::AppendJsonMember(
                formats::RemoveJsonMember(config, "quantization_config", "config.json"),
                "quantization_config",
                R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
                    "ignored_layers": ["lm_head"]})",
                "config.json"));
  ReshardOptions options = Options(4, 1);
  options.on_misaligned = OnMisaligned::kBF16;
  Run(options);
  const Json quantization = Config()["quantization_config"];
  EXPECT_FALSE(quantization.contains("modules_to_not_convert"));
  EXPECT_THAT(quantization["ignored_layers"],
              ::testing::AllOf(::testing::Contains(Json("lm_head")),
                               ::testing::Contains(Json("model.layers.1.mlp.experts.5.up_proj"))));
}

TEST_F(ReshardConfigTest, ReplicatedModulesAreWhole) {
  ReshardOptions options = Options(4, 1);
  options.on_misaligned = OnMisaligned::kReplicateModule;
  const ReshardReport report = Run(options);
  const Tensors source = ReadCheckpoint(model());
  const Tensors held = ReadTensors(out(), report.ranks.at(2).files);
  const std::string expert = "model.layers.1.mlp.experts.5.up_proj.weight";
  EXPECT_EQ(held.at(expert), source.at(expert));
  EXPECT_THAT(report.replicated_modules, ::testing::Contains("model.layers.1.mlp.experts"));
}

}  // namespace
}  // namespace dsv3::testing
