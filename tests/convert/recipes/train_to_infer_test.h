#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/train_to_infer.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/reshard.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// The `tiny` sample has four main layers and one MTP layer behind them.
inline constexpr int kMainLayers = 4;
inline constexpr char kMtpLayer[] = "model.layers.4.";

// One train-to-infer command for each test.
class TrainToInferTest : public ::testing::Test {
 protected:
  static Conversion Command(const std::filesystem::path& input, const std::filesystem::path& output,
                            const convert::TrainToInferOptions& options) {
    return {input, output, convert::TrainToInferConversion(options)};
  }
  static convert::ConversionReport Convert(const std::filesystem::path& input,
                                           const std::filesystem::path& output,
                                           const convert::TrainToInferOptions& options = {}) {
    return Command(input, output, options).Run();
  }

  static nlohmann::json Json(const std::filesystem::path& file) {
    return nlohmann::json::parse(ReadFile(file));
  }
  static void SetConfig(const std::filesystem::path& directory, const char* field,
                        const nlohmann::json& value) {
    nlohmann::json config = Json(directory / "config.json");
    config[field] = value;
    WriteFile(directory / "config.json", config.dump(2));
  }

  // A BF16 checkpoint.
  std::filesystem::path Bf16Sample(const char* name = "bf16") {
    MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "fp8");
    Conversion(dir_ / "fp8", dir_ / name).Run();
    return dir_ / name;
  }

  // Writes the tensors to a checkpoint of one shard, with the config of another one.
  void WriteTensors(const std::map<std::string, HeldTensor>& tensors,
                    const std::filesystem::path& config_of, const std::filesystem::path& output) {
    TinyCheckpoint checkpoint;
    checkpoint.config = ReadFile(config_of / "config.json");
    checkpoint.has_index = false;
    for (const auto& [name, tensor] : tensors) {
      checkpoint.Add("model.safetensors", name, tensor.dtype, tensor.shape).bytes = tensor.bytes;
    }
    checkpoint.Write(output);
  }

  TempDir dir_;
};

// BF16 values as F32, exactly.
inline HeldTensor Widened(const HeldTensor& tensor) {
  HeldTensor wide{formats::Dtype::kF32, tensor.shape, std::string(2 * tensor.bytes.size(), '\0')};
  for (std::size_t i = 0; i < tensor.bytes.size() / 2; ++i) {
    wide.bytes.replace(4 * i + 2, 2, tensor.bytes, 2 * i, 2);
  }
  return wide;
}

}  // namespace dsv3::testing
