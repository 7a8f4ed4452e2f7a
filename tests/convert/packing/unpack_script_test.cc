// scripts/unpack.py, which is written against docs/packed.md alone, and the zstd program read what
// the codec writes.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "convert/packing/packed_file.h"
#include "formats/io/input_file.h"
#include "tests/convert/packing/packed_fixture.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using testing::BytesOf;
using testing::RandomBytes;
using testing::ReadTree;
using testing::TempDir;
using testing::TensorBytes;
using testing::WriteFile;

bool Succeeds(const std::string& command) { return std::system(command.c_str()) == 0; }

std::string Quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

// Tensors of every dtype and coding; `steps` says how far the values are from those of a base.
std::vector<TensorBytes> Tensors(int steps) {
  std::vector<TensorBytes> tensors;
  for (int i = 0; i < formats::kNumDtypes; ++i) {
    const auto dtype = static_cast<Dtype>(i);
    const std::string name = "of " + std::string(formats::DtypeName(dtype));
    std::string raw = RandomBytes(3 * 8 * 1000, 1);
    for (std::size_t k = 0; k < raw.size(); ++k) {
      // Some bytes are skewed, and steps are rare in the first third.
      if (k % 3 == 1) raw[k] = static_cast<char>(raw[k] & 3);
      if (k < raw.size() / 3 ? k % 64 == 5 : k % 8 < 2) raw[k] = static_cast<char>(raw[k] + steps);
    }
    const std::uint64_t elements = raw.size() * 8 / formats::DtypeBits(dtype);
    tensors.push_back({name, dtype, {elements}, raw});
  }
  const std::vector<float> weights = testing::NormalWeights(1024, 1025, 5);
  const std::vector<float> moves = testing::NormalWeights(1024, 1025, 6);
  std::vector<std::uint16_t> moved(weights.size());
  std::vector<std::uint16_t> stepped(weights.size());
  for (std::size_t k = 0; k < weights.size(); ++k) {
    moved[k] = testing::ToBF16(weights[k] + 0.02F * static_cast<float>(steps) * moves[k]);
    stepped[k] = static_cast<std::uint16_t>(testing::ToBF16(weights[k]) +
                                            (k * 2654435761U % 100 == 0 ? steps : 0));
  }
  tensors.push_back({"moved", Dtype::kBF16, {1024, 1025}, BytesOf(moved)});
  tensors.push_back({"stepped", Dtype::kBF16, {1024, 1025}, BytesOf(stepped)});
  tensors.push_back({"same", Dtype::kF32, {1024, 1025}, BytesOf(weights)});
  tensors.push_back({"scalar", Dtype::kF64, {}, RandomBytes(8, static_cast<std::uint64_t>(steps))});
  tensors.push_back({"empty \xC3\xA9\n", Dtype::kF32, {0, 3}, ""});
  tensors.push_back({"__header__", Dtype::kI64, {1}, RandomBytes(8, 4)});
  return tensors;
}

class UnpackScriptTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Succeeds("command -v zstd >/dev/null && python3 -c 'import numpy' 2>/dev/null")) {
      GTEST_SKIP() << "needs python3 with numpy, and zstd (scripts/setup tests)";
    }
    WriteFile(dir_ / "base/model.safetensors", testing::SafetensorsFile(Tensors(0)));
    WriteFile(dir_ / "in/model.safetensors", testing::SafetensorsFile(Tensors(1), "   "));
    WriteFile(dir_ / "in/config.json", "{}");
    WriteFile(dir_ / "in/sub/dir/none.safetensors", testing::SafetensorsFile({}));
  }

  bool Unpack(const std::string& base) {
    return Succeeds("python3 -B " DSV3_SOURCE_DIR "/scripts/unpack.py " + Quoted(dir_ / "packed") +
                    " " + Quoted(dir_ / "out") + base + " 2>" + Quoted(dir_ / "errors"));
  }

  TempDir dir_;
};

TEST_F(UnpackScriptTest, RestoresFilesThatWerePackedAlone) {
  testing::PackDirectory(dir_ / "in", dir_ / "packed");
  ASSERT_TRUE(Unpack("")) << testing::ReadFile(dir_ / "errors");
  EXPECT_EQ(ReadTree(dir_ / "out"), ReadTree(dir_ / "in"));
}

TEST_F(UnpackScriptTest, RestoresFilesFromABase) {
  WriteFile(dir_ / "base/sub/dir/none.safetensors", testing::SafetensorsFile({}));
  testing::PackDirectory(dir_ / "in", dir_ / "packed", dir_ / "base");
  ASSERT_TRUE(Unpack(" " + Quoted(dir_ / "base"))) << testing::ReadFile(dir_ / "errors");
  EXPECT_EQ(ReadTree(dir_ / "out"), ReadTree(dir_ / "in"));
  std::filesystem::remove_all(dir_ / "out");
  EXPECT_FALSE(Unpack(" " + Quoted(dir_ / "in"))) << "another base";
}

// The base's FP8 weight stands for BF16 by its dequantised values.
TEST_F(UnpackScriptTest, RestoresFilesFromABaseInFp8) {
  constexpr std::size_t kRows = 130;
  constexpr std::size_t kCols = 300;
  std::string codes = RandomBytes(kRows * kCols, 1);
  std::vector<float> scales;
  for (int i = 0; i < 2 * 3; ++i) scales.push_back(0.001F + 0.0007F * static_cast<float>(i));
  std::vector<std::uint16_t> values(codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if ((codes[i] & 0x7F) == 0x7F) codes[i] = 0;  // NaN
    const int exponent = codes[i] >> 3 & 15;
    const int ulps = codes[i] & 7;
    const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(ulps), -9)
                                          : std::ldexp(static_cast<float>(8 + ulps), exponent - 10);
    const float scale = scales[i / kCols / 128 * 3 + i % kCols / 128];
    values[i] = testing::ToBF16((codes[i] < 0 ? -magnitude : magnitude) * scale);
  }
  std::vector<std::uint16_t> stepped = values;
  for (std::size_t i = 0; i < stepped.size(); i += 50) ++stepped[i];
  const auto write = [&](const std::string& directory, const std::vector<TensorBytes>& tensors) {
    WriteFile(dir_ / (directory + "/model.safetensors"), testing::SafetensorsFile(tensors));
  };
  write("as_bf16", {{"w", Dtype::kBF16, {kRows, kCols}, BytesOf(values)}});
  write("stepped", {{"w", Dtype::kBF16, {kRows, kCols}, BytesOf(stepped)}});
  write("base", {{"w", Dtype::kF8E4M3, {kRows, kCols}, codes},
                 {"w_scale_inv", Dtype::kF32, {2, 3}, BytesOf(scales)}});
  testing::PackDirectory(dir_ / "stepped", dir_ / "packed", dir_ / "as_bf16");
  ASSERT_TRUE(Unpack(" " + Quoted(dir_ / "base"))) << testing::ReadFile(dir_ / "errors");
  EXPECT_EQ(ReadTree(dir_ / "out"), ReadTree(dir_ / "stepped"));
}

TEST_F(UnpackScriptTest, TheZstdProgramTestsEveryStream) {
  const std::string packed =
      testing::PackFile(testing::SafetensorsFile(Tensors(1)), testing::SafetensorsFile(Tensors(0)));
  WriteFile(dir_ / "p", packed);
  const PackedHead head = ReadPackedHead(formats::InputFile(dir_ / "p", "p"));
  for (std::size_t i = 0; i < head.streams.size(); ++i) {
    const PackedStream& stream = head.streams[i];
    WriteFile(dir_ / "streams" / (std::to_string(i) + ".zst"),
              packed.substr(stream.offset, stream.bytes));
  }
  EXPECT_TRUE(Succeeds("cd " + Quoted(dir_ / "streams") + " && zstd -tq *.zst"));
}

}  // namespace
}  // namespace dsv3::convert
