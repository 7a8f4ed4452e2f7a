#include <cstring>
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/repack.h"
#include "tests/convert/recipes/repack_test.h"

// What repack refuses, and how it says so.
namespace dsv3::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// V4 with one group of w2 whose scale is 2^-16 of the smallest that is safe, and these codes.
TinyCheckpoint WithSmallGroup(char codes) {
  TinyCheckpoint checkpoint = V4Checkpoint();
  constexpr std::uint64_t kRow = 130;
  constexpr std::uint64_t kGroup = 5;
  checkpoint.Find(std::string(kExpert) + "w2.scale").bytes[kRow * (kV4Cols / 32) + kGroup] = 84;
  std::string& bytes = checkpoint.Find(std::string(kExpert) + "w2.weight").bytes;
  bytes.replace((kRow * kV4Cols + kGroup * 32) / 2, 16, 16, codes);
  return checkpoint;
}

TEST_F(RepackTest, RefusesBlocksThatFp8CannotHold) {
  // A code of 0.5 is lost; 4 at 2^(84 − 114 + 6) is, too; zeros of either sign are not.
  for (const char codes : {'\x10', '\x06', '\x0E'}) {
    const Error error = Refusal(WithSmallGroup(codes), RepackTarget::kFp8);
    EXPECT_EQ(error.place().tensor, std::string(kExpert) + "w2.weight");
    EXPECT_EQ(error.place().file, kTinyShard1);
    EXPECT_THAT(error.message(),
                AllOf(HasSubstr("tensor 'layers.3.ffn.experts.7.w2.weight'"),
                      HasSubstr("the block of rows 128 to 199, columns 128 to 255"),
                      HasSubstr("that of row 130, columns 160 to 191 is 2^-43")));
  }
  for (const char codes : {'\x00', '\x08', static_cast<char>(0x80)}) {
    Repack(WithSmallGroup(codes), RepackTarget::kFp8);
    ExpectSameValues(in(), out());
  }
}

TEST_F(RepackTest, RefusesGroupsThatNvFp4CannotHold) {
  const Error error = Refusal(WithSmallGroup('\x10'), RepackTarget::kNvFp4ModelOpt);
  EXPECT_EQ(error.place().tensor, std::string(kExpert) + "w2.weight");
  EXPECT_THAT(error.message(),
              AllOf(HasSubstr("the block of row 130, columns 160 to 191"),
                    HasSubstr("its scale is 2^-43"), HasSubstr("the largest one is 2^-13")));
  Repack(WithSmallGroup('\x00'), RepackTarget::kNvFp4ModelOpt);
  ExpectSameValues(in(), out());
}

TEST_F(RepackTest, RefusesGroupsThatTheScaleOfTheOtherMatrixHides) {
  TinyCheckpoint checkpoint = V4Checkpoint();
  // w1 alone would do: its scales are 100 to 109.
  SpreadScales(checkpoint.Find(std::string(kExpert) + "w3.scale"), 127, 1);
  EXPECT_THAT(
      Refusal(checkpoint, RepackTarget::kNvFp4ModelOpt).message(),
      AllOf(HasSubstr("w1.weight'"), HasSubstr("of this weight and of layers.3.ffn.experts.7.w3"),
            HasSubstr("is 2^0")));
  Repack(checkpoint, RepackTarget::kFp8);
}

TEST_F(RepackTest, RefusesTensorScalesWithoutAnInverse) {
  Made made = NvFp4(false);
  SetFloat(made.checkpoint.Find(std::string(kModule) + "weight_scale_2"), 0x1p-140F);
  EXPECT_THAT(Refusal(made.checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              AllOf(HasSubstr("up_proj.weight'"), HasSubstr("the block of row "),
                    HasSubstr("no F32 value near 1 / 7.17")));
  made = NvFp4(true);
  SetFloat(made.checkpoint.Find(std::string(kModule) + "weight_global_scale"), 0x1p-140F);
  EXPECT_THAT(Refusal(made.checkpoint, RepackTarget::kNvFp4ModelOpt).message(),
              AllOf(HasSubstr("up_proj.weight_packed'"), HasSubstr("1 / 7.17"),
                    HasSubstr("is not a finite F32 value")));
  TinyCheckpoint checkpoint = V4Checkpoint();
  checkpoint.DropContaining("wq_a");
  for (const char* const weight : {"w1", "w2", "w3"}) {
    SpreadScales(checkpoint.Find(std::string(kExpert) + weight + ".scale"), 1, 4);
  }
  EXPECT_THAT(Refusal(checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              HasSubstr("weight_global_scale, which divides, would be 2^131"));
}

TEST_F(RepackTest, RefusesScalesThatNoWeightHas) {
  TinyCheckpoint checkpoint = V4Checkpoint();
  checkpoint.Find(std::string(kExpert) + "w1.scale").bytes[11] = '\xFF';
  EXPECT_THAT(Refusal(checkpoint, RepackTarget::kFp8).message(),
              AllOf(HasSubstr("w1.scale' is nan at [1, 1]"), HasSubstr("Download it again"),
                    ::testing::Not(HasSubstr("--allow-bad-scales"))));
  Made made = NvFp4(false);
  SetFloat(made.checkpoint.Find(std::string(kModule) + "input_scale"),
           std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(Refusal(made.checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              HasSubstr("input_scale' is nan"));
  made = NvFp4(false);
  TinyTensor& input = made.checkpoint.Find(std::string(kModule) + "input_scale");
  input.dtype = Dtype::kBF16;
  input.bytes.resize(2);
  EXPECT_THAT(Refusal(made.checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              HasSubstr("input_scale' is BF16 [], expected one F32 value"));
}

TEST_F(RepackTest, RefusesFormsThatCannotBecomeTheTarget) {
  Made int4 = PackedInt4(32);
  EXPECT_THAT(
      Refusal(int4.checkpoint, RepackTarget::kFp8).message(),
      AllOf(
          HasSubstr("up_proj.weight_packed'"), HasSubstr("packed INT4"),
          HasSubstr("cannot become fp8 without loss; dsv3-convert quantize --to fp8 rounds them")));
  Made nvfp4 = NvFp4(true);
  EXPECT_THAT(Refusal(nvfp4.checkpoint, RepackTarget::kFp8).message(),
              AllOf(HasSubstr("NVFP4"), HasSubstr("cannot become fp8")));
  EXPECT_THAT(Refusal(nvfp4.checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              HasSubstr("have the form nvfp4-compressed-tensors already"));
  EXPECT_THAT(Refusal(SmallFp8Checkpoint(), RepackTarget::kNvFp4ModelOpt).message(),
              AllOf(HasSubstr("not one tensor holds FP4 codes"),
                    HasSubstr("dsv3-convert quantize --to nvfp4 rounds other weights")));
  EXPECT_THAT(Refusal(SmallFp8Checkpoint(), RepackTarget::kNvFp4CompressedTensors).message(),
              HasSubstr("dsv3-convert quantize --to nvfp4 --recipe llm-compressor rounds other"));
}

TEST_F(RepackTest, RefusesWhatTheConfigCannotDescribe) {
  EXPECT_THAT(Refusal(V4Checkpoint(), RepackTarget::kNvFp4CompressedTensors).message(),
              AllOf(HasSubstr("wq_a.weight' is FP8"), HasSubstr("give --to nvfp4-modelopt")));
  Made made = NvFp4(false);
  made.checkpoint.side_files["hf_quant_config.json"] =
      R"({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "INT8"}})";
  EXPECT_THAT(Refusal(made.checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              AllOf(HasSubstr("hf_quant_config.json: kv_cache_quant_algo"), HasSubstr("INT8")));
  // Activations of some weights alone.
  TinyCheckpoint checkpoint = NvFp4(false).checkpoint;
  for (const char* const part : {"weight", "weight_scale", "weight_scale_2"}) {
    TinyTensor copy = checkpoint.Find(std::string(kModule) + part);
    copy.name = "model.layers.4.mlp.experts.7.up_proj." + std::string(part);
    checkpoint.tensors.push_back(copy);
  }
  EXPECT_THAT(Refusal(checkpoint, RepackTarget::kNvFp4CompressedTensors).message(),
              AllOf(HasSubstr("layers.4"), HasSubstr("has no"), HasSubstr("input_scale")));
}

TEST_F(RepackTest, NeedsAForm) {
  V4Checkpoint().Write(in());
  const Conversion conversion(in(), out(), convert::RepackConversion({}));
  const Error error = ErrorOf([&] { conversion.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--to is missing"));
}

}  // namespace
}  // namespace dsv3::testing
