#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "convert/recipes/dequantize.h"
#include "convert/recipes/repack.h"
#include "formats/error.h"
#include "tests/convert/recipes/dequantize_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/files.h"

// Checkpoints of FP4 weights that repack writes in another form.
namespace dsv3::testing {
using convert::RepackTarget;

// The weights of one expert in V4's MXFP4: its layer has ragged blocks of 128 × 128.
inline constexpr std::uint64_t kV4Rows = 200;
inline constexpr std::uint64_t kV4Cols = 320;
inline constexpr char kExpert[] = "layers.3.ffn.experts.7.";

inline constexpr char kV4Config[] = R"({
  "model_type": "deepseek_v4_for_tests",
  "expert_dtype": "fp4",
  "quantization_config": {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128]
  }
}
)";

// Scales from 2^(least − 127) on, `count` powers of two.
inline void SpreadScales(TinyTensor& scale, unsigned least, unsigned count) {
  for (char& byte : scale.bytes) {
    byte = static_cast<char>(least + static_cast<unsigned char>(byte) % count);
  }
}

inline void AddMxFp4(TinyCheckpoint& checkpoint, const std::string& module, bool compressed,
                     unsigned least = 100, unsigned count = 15) {
  checkpoint.Add(kTinyShard1, module + (compressed ? ".weight_packed" : ".weight"),
                 compressed ? Dtype::kU8 : Dtype::kI8, {kV4Rows, kV4Cols / 2});
  SpreadScales(checkpoint.Add(kTinyShard2, module + (compressed ? ".weight_scale" : ".scale"),
                              compressed ? Dtype::kU8 : Dtype::kF8E8M0, {kV4Rows, kV4Cols / 32}),
               least, count);
}

// An expert with w1, w2 and w3, an FP8 weight and a norm.
inline TinyCheckpoint V4Checkpoint() {
  TinyCheckpoint checkpoint;
  checkpoint.config = kV4Config;
  AddMxFp4(checkpoint, std::string(kExpert) + "w1", false, 100, 10);
  AddMxFp4(checkpoint, std::string(kExpert) + "w2", false);
  AddMxFp4(checkpoint, std::string(kExpert) + "w3", false, 105, 13);
  TinyTensor& attention =
      checkpoint.Add(kTinyShard3, "layers.3.attn.wq_a.weight", Dtype::kF8E4M3, {130, 64});
  for (char& byte : attention.bytes) byte = static_cast<char>(byte & 0xBF);  // no NaN
  checkpoint.AddScale(kTinyShard3, "layers.3.attn.wq_a.scale", Dtype::kF8E8M0, {2, 1});
  checkpoint.Add(kTinyShard3, "layers.3.attn_norm.weight", Dtype::kBF16, {64});
  checkpoint.Add(kTinyShard3, "head.weight", Dtype::kBF16, {8, 4});
  return checkpoint;
}

class RepackTest : public ::testing::Test {
 protected:
  std::filesystem::path in() const { return dir_ / "in"; }
  std::filesystem::path out() const { return dir_ / "out"; }

  static Conversion Command(const std::filesystem::path& from, const std::filesystem::path& to,
                            RepackTarget target) {
    return {from, to, convert::RepackConversion({.to = target})};
  }

  convert::ConversionReport Repack(const TinyCheckpoint& checkpoint, RepackTarget target) const {
    std::filesystem::remove_all(in());
    std::filesystem::remove_all(out());
    checkpoint.Write(in());
    return Command(in(), out(), target).Run();
  }

  // Expects that dequantize makes the same files of both, whatever their forms.
  void ExpectSameValues(const std::filesystem::path& a, const std::filesystem::path& b) const {
    const auto dequantized = [&](const std::filesystem::path& of, const char* to) {
      Conversion conversion(of, dir_ / to, convert::DequantizeConversion());
      std::filesystem::remove_all(dir_ / to);
      conversion.Run();
    };
    dequantized(a, "bf16-a");
    dequantized(b, "bf16-b");
    for (const char* const shard : {kTinyShard1, kTinyShard2, kTinyShard3}) {
      ASSERT_EQ(std::filesystem::exists(dir_ / "bf16-a" / shard),
                std::filesystem::exists(dir_ / "bf16-b" / shard));
      if (!std::filesystem::exists(dir_ / "bf16-a" / shard)) continue;
      EXPECT_TRUE(ReadFile(dir_ / "bf16-a" / shard) == ReadFile(dir_ / "bf16-b" / shard)) << shard;
    }
  }

  // Expects a refusal of this code that leaves nothing.
  Error Refusal(const TinyCheckpoint& checkpoint, RepackTarget target,
                ErrorCode code = ErrorCode::kBadInput) const {
    const Error error = ErrorOf([&] { Repack(checkpoint, target); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_FALSE(std::filesystem::exists(out()));
    return error;
  }

  TempDir dir_;
};

}  // namespace dsv3::testing
