#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "convert/packing/packed_manifest.h"
#include "convert/recipes/pack.h"
#include "convert/recipes/unpack.h"
#include "formats/error.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/formats/safetensors_text.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// Checkpoints that are packed and unpacked.
namespace dsv3::testing {

inline constexpr char kLongShard[] = "model-00002-of-00003.safetensors";
inline constexpr char kOddShard[] = "more/odd.safetensors";
inline constexpr char kIndexFile[] = "model.safetensors.index.json";
inline constexpr char kManifestFile[] = "checkpoint.manifest.json";

// BF16 weights as training makes them: bytes with little entropy in their exponents.
inline std::string WeightBytes(std::size_t elements, std::uint64_t seed) {
  std::string bytes = RandomBytes(2 * elements, seed);
  for (std::size_t i = 1; i < bytes.size(); i += 2) {
    const auto high = static_cast<unsigned char>(bytes[i]);
    bytes[i] = static_cast<char>((high & 0x80U) | 0x3CU | (high % 3));
  }
  return bytes;
}

// A file whose header is as no writer makes it and as every reader takes it: escapes, members in
// another order, blanks, metadata, tensors that are not in the order of their names, an empty one
// between others, a scalar.
inline std::string OddShard() {
  std::string json =
      R"( { "b" : {"shape": [3], "data_offsets":[0,6], "dtype":"BF16"}, "__metadata__":{"format":"pt","\u00e9":"\"x\""},)"
      R"("\u0061/\\z":{"dtype":"F32","shape":[],"data_offsets":[6,10]},)"
      R"("none":{"dtype":"I64","shape":[0,4],"data_offsets":[10,10]},)"
      R"("last":{"dtype":"U8","shape":[2,1],"data_offsets":[10,12]}}       )";
  std::string file = SafetensorsFile(json, 0);
  return file + "abcdefGHIJkl";
}

inline void WriteOriginal(const std::filesystem::path& directory) {
  TinyCheckpoint checkpoint;
  checkpoint.config = "{\"model_type\": \"of no family\"}";
  checkpoint.Add("model-00001-of-00003.safetensors", "a.weight", formats::Dtype::kF8E4M3, {33, 5});
  checkpoint.Add("model-00001-of-00003.safetensors", "a.mask", formats::Dtype::kBool, {7});
  checkpoint.Add("model-00001-of-00003.safetensors", "a.ids", formats::Dtype::kI64, {300});
  checkpoint.Add("model-00001-of-00003.safetensors", "empty", formats::Dtype::kF16, {0, 3});
  checkpoint.Add(kLongShard, "long.weight", formats::Dtype::kBF16, {1300, 1001});
  checkpoint.Find("long.weight").bytes = WeightBytes(1300 * 1001, 7);
  checkpoint.Add(kLongShard, "scale", formats::Dtype::kF32, {});
  checkpoint.Add("model-00003-of-00003.safetensors", "half", formats::Dtype::kF16, {70000});
  checkpoint.side_files = {{"tokenizer.json", "{}"},
                           {"README.md", "of the model"},
                           {"empty.txt", ""},
                           {".gitattributes", "*.safetensors filter=lfs"},
                           {"code/deep/modeling.py", "pass"},
                           {"SHA256SUMS", "not checked here"},
                           {"adapter_config.json", "{}"}};
  checkpoint.Write(directory);
  WriteFile(directory / kOddShard, OddShard());
  WriteFile(directory / "more/nothing.safetensors", SafetensorsFile("{}", 0));
}

class PackTest : public ::testing::Test {
 protected:
  std::filesystem::path in() const { return dir_ / "in"; }
  std::filesystem::path packed() const { return dir_ / "packed"; }
  std::filesystem::path out() const { return dir_ / "out"; }

  void SetUp() override { WriteOriginal(in()); }

  static Conversion Pack(const std::filesystem::path& from, const std::filesystem::path& to) {
    return {from, to, convert::PackConversion()};
  }
  static Conversion Unpack(const std::filesystem::path& from, const std::filesystem::path& to) {
    return {from, to, convert::UnpackConversion()};
  }
  convert::ConversionReport Pack() const { return Pack(in(), packed()).Run(); }
  convert::ConversionReport Unpack() const { return Unpack(packed(), out()).Run(); }

  convert::PackedManifest Manifest() const {
    return convert::ParsePackedManifest(ReadFile(packed() / "packed.json"), "packed.json");
  }

  // Changes one byte of a file.
  static void Flip(const std::filesystem::path& file, std::size_t offset) {
    std::string content = ReadFile(file);
    content.at(offset) = static_cast<char>(content.at(offset) ^ 0x10);
    WriteFile(file, content);
  }

  // Expects that unpacking is refused with a name in the error, and that no file is visible that is
  // not as in IN, no index and no manifest.
  Error UnpackRefusal(ErrorCode code, const std::string& file) const {
    std::filesystem::remove_all(out());
    const Error error = ErrorOf([&] { Unpack(); });
    EXPECT_EQ(error.code(), code) << error.message();
    EXPECT_EQ(error.place().file, file) << error.message();
    if (!std::filesystem::exists(out())) return error;
    const auto original = ReadTree(in());
    for (const auto& [name, content] : ReadTree(out())) {
      const bool is_hidden = name.starts_with(".dsv3-") || name.ends_with(".partial");
      const auto found = original.find(name);
      EXPECT_TRUE(is_hidden || (found != original.end() && found->second == content)) << name;
      EXPECT_NE(name, kIndexFile);
      EXPECT_NE(name, kManifestFile);
    }
    return error;
  }

  TempDir dir_;
};

}  // namespace dsv3::testing
