#include <array>

#include "convert/model/expected_tensors.h"
#include "formats/json/json_edit.h"
#include "tests/convert/model/configs.h"
#include "tests/convert/verify/structure_test.h"

namespace dsv3::testing {

using formats::Dtype;

TinyCheckpoint SmallModelCheckpoint() {
  nlohmann::json json = convert::testing::SmallConfig();
  json["model_type"] = "deepseek_v32";
  json["index_n_heads"] = 2;
  json["index_head_dim"] = 4;
  json["torch_dtype"] = "bfloat16";
  json["quantization_config"]["weight_block_size"] = {4, 8};

  TinyCheckpoint checkpoint;
  checkpoint.config = json.dump(2) + "\n";
  constexpr std::array kShards = {kTinyShard1, kTinyShard2, kTinyShard3, kTinyShard4};
  std::size_t count = 0;
  const convert::ModelConfig config = convert::ParseModelConfig(checkpoint.config, "config.json");
  for (const convert::ExpectedTensor& tensor : convert::ExpectedTensors(config)) {
    const std::size_t shard = tensor.layer == convert::ExpectedTensor::kNoLayer ? 0 : tensor.layer;
    const bool quantized = convert::IsQuantized(tensor.role);
    const bool bias = tensor.role == convert::TensorRole::kRouterBias;
    const Dtype dtype = quantized ? Dtype::kF8E4M3 : bias ? Dtype::kF32 : Dtype::kBF16;
    checkpoint.Add(kShards[shard], tensor.name, dtype, tensor.shape);
    if (!quantized) continue;
    // Every seventh scale is alone in the last shard.
    checkpoint.AddScale(kShards[++count % 7 == 0 ? 3 : shard], tensor.name + "_scale_inv",
                        Dtype::kF32, {(tensor.shape[0] + 3) / 4, (tensor.shape[1] + 7) / 8});
  }
  return checkpoint;
}

formats::Findings StructureTest::Findings() const {
  Write();
  return Verify().verification.findings;
}

formats::Finding StructureTest::OnlyFinding() const {
  const formats::Findings findings = Findings();
  EXPECT_THAT(Lines(findings), ::testing::SizeIs(1));
  return findings.size() == 1 ? findings[0] : formats::Finding();
}

void StructureTest::SetConfig(const std::string& member, const std::string& value) {
  const std::string name = "config.json";
  checkpoint_.config = formats::JsonMember(checkpoint_.config, member, name)
                           ? formats::ReplaceJsonMember(checkpoint_.config, member, value, name)
                           : formats::AppendJsonMember(checkpoint_.config, member, value, name);
}

std::vector<std::string> Lines(const formats::Findings& findings) {
  std::vector<std::string> lines;
  for (const formats::Finding& finding : findings) {
    const bool is_warning = finding.severity == formats::Severity::kWarning;
    lines.push_back((is_warning ? "warning " : "") + finding.kind + " " + finding.file + " " +
                    finding.tensor);
  }
  return lines;
}

}  // namespace dsv3::testing
