#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/recipes/quantize.h"
#include "quant/encode.h"
#include "tests/convert/support/bf16_to_fp8_test.h"
#include "tests/support/files.h"

// What tests of quantize share.
namespace dsv3::testing {

inline constexpr char kManifestFile[] = "checkpoint.manifest.json";

// A sample checkpoint in FP8 and in BF16, which `Run` quantises.
class QuantizeTest : public Bf16ToFp8Test {
 protected:
  // Columns of experts in which there are whole groups of every form.
  void MakeSampleOfGroups() { MakeSample(1, convert::SamplePreset::kTinyTp); }

  convert::ConversionReport Run(const std::filesystem::path& from, const std::filesystem::path& to,
                                const convert::QuantizeOptions& options) {
    return Conversion(from, to, convert::QuantizeConversion(options)).Run();
  }

  // The tree without the manifest, which says where the bytes came from.
  static auto Bytes(const std::filesystem::path& directory) {
    auto tree = ReadTree(directory);
    tree.erase(kManifestFile);
    return tree;
  }

  // What `rule` makes of a weight of the BF16 checkpoint.
  struct Expected {
    std::string codes;
    std::string scales;
  };
  Expected Encoded(const quant::EncodeRule& rule, const std::string& weight,
                   float tensor_scale = 1) {
    const Place place = FindTensor(bf16(), weight);
    const std::string values = TensorBytes(bf16(), weight);
    quant::EncodePanel panel;
    panel.values = std::as_bytes(std::span(values));
    panel.rows = place.entry.shape[0];
    panel.cols = place.entry.shape[1];
    panel.tensor_scale = tensor_scale;
    const quant::BlockShape block = quant::BlockOf(rule, panel.cols);
    Expected made;
    made.codes.resize(panel.rows * panel.cols * quant::CodeBits(rule.codes) / 8);
    made.scales.resize(((panel.rows - 1) / block.rows + 1) * ((panel.cols - 1) / block.cols + 1) *
                       quant::ScaleBytes(quant::StoredScaleOf(rule, panel.format)));
    quant::Quality quality;
    EXPECT_FALSE(quant::Encode(
        rule, panel, {reinterpret_cast<std::uint8_t*>(made.codes.data()), made.codes.size()},
        std::as_writable_bytes(std::span(made.scales)), quality));
    return made;
  }
};

}  // namespace dsv3::testing
