#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/progress.h"
#include "convert/forward/forward.h"
#include "convert/forward/module_outputs.h"
#include "convert/model/model_config.h"
#include "formats/error.h"
#include "formats/io/file_system.h"
#include "tests/convert/forward/forward_models.h"

namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ForwardRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class TraceTest : public ForwardModelsTest {
 protected:
  ForwardRequest Request() const {
    ForwardRequest request;
    request.input = Fp8();
    request.sequences = {{3, 141, 59, 26, 5}, {7, 11, 300}};
    request.trace = dir_ / "trace.safetensors";
    return request;
  }
  static void Run(const ForwardRequest& request) {
    convert::ProgressSink progress;
    convert::RunForward(request, formats::PosixFileSystem(), progress, {});
  }
  // The tensors of the file that a request writes.
  static std::map<std::string, HeldTensor> Trace(const ForwardRequest& request) {
    Run(request);
    return ReadTensors(request.trace);
  }
  static std::vector<float> Floats(const HeldTensor& tensor) {
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
};

TEST_F(TraceTest, HasEveryModuleOfTheRunInItsShape) {
  for (const auto form : {convert::AttentionForm::kNaive, convert::AttentionForm::kAbsorbed}) {
    ForwardRequest request = Request();
    request.attention = form;
    request.mtp_logits = dir_ / "mtp.npy";
    const auto tensors = Trace(request);
    const convert::ModelConfig config =
        convert::ParseModelConfig(ReadFile(Fp8() / "config.json"), "config.json");
    const auto modules = convert::ListModuleOutputs(config, form, 8, 6);
    EXPECT_THAT(tensors, SizeIs(modules.size()));
    for (const convert::ModuleOutput& module : modules) {
      ASSERT_TRUE(tensors.contains(module.module)) << module.module;
      const HeldTensor& tensor = tensors.at(module.module);
      EXPECT_EQ(tensor.dtype, formats::Dtype::kF32);
      EXPECT_THAT(tensor.shape, ElementsAre(module.rows, module.columns)) << module.module;
    }
    // The absorbed form makes no keys and values of heads.
    EXPECT_EQ(tensors.contains("model.layers.0.self_attn.kv_b_proj"),
              form == convert::AttentionForm::kNaive);
    EXPECT_EQ(Floats(tensors.at("model.layers.4.shared_head.head")), Array("mtp.npy"));
  }
}

TEST_F(TraceTest, HasTheSameValuesAsTheOtherOutputs) {
  ForwardRequest request = Request();
  request.logits = dir_ / "logits.npy";
  request.hidden = dir_ / "hidden.npy";
  request.generate = 2;
  const auto tensors = Trace(request);
  EXPECT_EQ(Floats(tensors.at("lm_head")), Array("logits.npy"));
  std::vector<float> stream = Floats(tensors.at("model.embed_tokens"));
  for (int layer = 0; layer < 4; ++layer) {
    const auto of_layer = Floats(tensors.at("model.layers." + std::to_string(layer)));
    stream.insert(stream.end(), of_layer.begin(), of_layer.end());
  }
  EXPECT_EQ(stream, Array("hidden.npy"));
  const std::string mlp = "model.layers.2.mlp";
  std::vector<float> sum = Floats(tensors.at(mlp + ".experts"));
  const std::vector<float> shared = Floats(tensors.at(mlp + ".shared_experts"));
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += shared[i];
  EXPECT_EQ(sum, Floats(tensors.at(mlp)));
  EXPECT_EQ(tensors.at("model.layers.0.mlp.down_proj").bytes,
            tensors.at("model.layers.0.mlp").bytes);
  EXPECT_EQ(tensors.at("model.layers.0.self_attn.o_proj").bytes,
            tensors.at("model.layers.0.self_attn").bytes);
}

TEST_F(TraceTest, IsTheSameFileWhateverTheThreadsAndTheMemory) {
  Run(Request());
  const std::string expected = ReadFile(Request().trace);
  ForwardRequest request = Request();
  request.threads = 3;
  request.memory_bytes = 1;
  Run(request);
  EXPECT_TRUE(ReadFile(request.trace) == expected);
  request.other = Bf16();
  Run(request);
  EXPECT_TRUE(ReadFile(request.trace) == expected);
}

TEST_F(TraceTest, WritesTheModulesThatMatchAPattern) {
  const auto all = Trace(Request());
  ForwardRequest request = Request();
  request.modules = "model.layers.[12].*_layernorm";
  const auto some = Trace(request);
  EXPECT_THAT(some, SizeIs(8));
  for (const auto& [name, tensor] : some) EXPECT_EQ(tensor.bytes, all.at(name).bytes) << name;

  fs::remove(request.trace);
  request.modules = "layers.*";
  const Error error = ErrorOf([&] { Run(request); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--modules 'layers.*' matches no module"));
  EXPECT_FALSE(fs::exists(request.trace));
}

TEST_F(TraceTest, LeavesNoFileBehindARunThatFails) {
  auto tensors = ReadCheckpoint(Bf16());
  std::memset(tensors.at("model.layers.3.self_attn.o_proj.weight").bytes.data(), 0xFF, 2);
  WriteTensors(tensors, Bf16(), dir_ / "nan");
  ForwardRequest request = Request();
  request.input = dir_ / "nan";
  EXPECT_EQ(ErrorOf([&] { Run(request); }).code(), ErrorCode::kBadInput);
  EXPECT_FALSE(fs::exists(request.trace));
  EXPECT_FALSE(fs::exists(request.trace.string() + ".partial"));
}

}  // namespace
}  // namespace dsv3::testing
