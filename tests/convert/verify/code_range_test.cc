#include "convert/verify/code_range.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/catalog/catalog.h"
#include "convert/verify/numeric.h"
#include "formats/checkpoint_files.h"
#include "tests/convert/support/reshard.h"
#include "tests/support/temp_dir.h"

// Codes and scales that a form cannot have.
namespace dsv3::testing {
namespace {

using convert::CodeRange;
using convert::CodesOutOfRange;
using convert::SamplePreset;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<std::byte> Bytes(std::initializer_list<unsigned> values) {
  std::vector<std::byte> bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(CodesOutOfRange, FindsEachCodeBelowTheRangeOfOffsetBinary) {
  for (unsigned low = 0; low < 16; ++low) {
    for (unsigned high = 0; high < 16; ++high) {
      for (std::size_t place = 0; place < 19; ++place) {
        std::vector<std::byte> codes(19, std::byte{0x88});
        codes[place] = static_cast<std::byte>(low | (high << 4));
        CodesOutOfRange found;
        found.Add(quant::CodeFormat::kI4Offset, {-7, 7, true}, 100, codes);
        EXPECT_EQ(found.count, (low == 0 ? 1U : 0U) + (high == 0 ? 1U : 0U));
        if (found.count == 0) continue;
        EXPECT_EQ(found.first, 100 + 2 * place + (low == 0 ? 0 : 1));
        EXPECT_EQ(found.first_value, -8);
      }
    }
  }
}

TEST(CodesOutOfRange, FindsBytesThatAreNoInt4) {
  CodesOutOfRange found;
  const CodeRange range{-8, 7, false};
  found.Add(quant::CodeFormat::kI8, range, 0, Bytes({0xF8, 7, 0, 0xFF}));
  EXPECT_EQ(found.count, 0U);
  found.Add(quant::CodeFormat::kI8, range, 4, Bytes({0, 0xF7, 8}));
  EXPECT_EQ(found.count, 2U);
  EXPECT_EQ(found.first, 5U);
  EXPECT_EQ(found.first_value, -9);
  EXPECT_TRUE(IsFault(found, range, 1));
}

TEST(CodesOutOfRange, AreNoFaultWhereAToolWritesThemThroughout) {
  const CodeRange range{-7, 7, true};
  CodesOutOfRange found;
  EXPECT_FALSE(IsFault(found, range, 1600));
  found.count = 100;
  EXPECT_TRUE(IsFault(found, range, 1600));
  found.count = 101;
  EXPECT_FALSE(IsFault(found, range, 1600));
}

class FormValuesTest : public ::testing::Test {
 protected:
  void Make(SamplePreset preset) {
    std::filesystem::remove_all(dir_ / "in");
    MakeSample(preset, 1, dir_ / "in");
  }

  // Replaces bytes of a tensor, from `offset` on.
  void Spoil(const std::string& tensor, std::uint64_t offset, const std::string& bytes) {
    formats::CheckpointFiles files = formats::OpenCheckpointFiles(dir_ / "in");
    const convert::Catalog catalog = convert::Catalog::FromCheckpoint(files);
    const std::uint32_t position = catalog.Find(tensor);
    ASSERT_NE(position, convert::Catalog::kNone) << tensor;
    const auto& extent = catalog.tensors()[position].extent;
    std::fstream file(catalog.files()[extent.file].path,
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(extent.offset + offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  formats::Findings Findings() const {
    convert::ProgressSink progress;
    const convert::StopToken stop;
    return convert::VerifyNumeric({.input = dir_ / "in", .histogram = ""}, progress, stop)
        .verification.findings;
  }

  void ExpectOne(const std::string& kind, const std::string& tensor, const std::string& place,
                 const std::string& text) const {
    const formats::Findings findings = Findings();
    ASSERT_EQ(findings.size(), 1U);
    EXPECT_EQ(findings[0].kind, kind);
    EXPECT_EQ(findings[0].severity, formats::Severity::kError);
    EXPECT_EQ(findings[0].tensor, tensor);
    EXPECT_THAT(findings[0].message, AllOf(HasSubstr(place), HasSubstr(text)));
  }

  TempDir dir_;
};

const std::string kUp = "model.layers.1.mlp.experts.3.up_proj.";  // 128 × 256

TEST_F(FormValuesTest, NamesTheCodeThatKimisInt4HasNot) {
  Make(SamplePreset::kKimiInt4);
  EXPECT_THAT(Findings(), IsEmpty());
  // Row 2, columns 10 and 11: codes 0 and 9.
  Spoil(kUp + "weight_packed", 2 * 128 + 5, "\x90");
  ExpectOne("code-out-of-range", kUp + "weight_packed", "[2, 10]", "the first is -8");
}

TEST_F(FormValuesTest, TakesCodesOfAnotherToolForWhatTheyAre) {
  Make(SamplePreset::kKimiInt4);
  std::string codes(128 * 128, '\0');
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<char>(i * 37 + i / 256);
  Spoil(kUp + "weight_packed", 0, codes);
  for (const formats::Finding& finding : Findings()) {
    EXPECT_NE(finding.kind, "code-out-of-range") << finding.message;
  }
}

TEST_F(FormValuesTest, NamesAShapeThatIsNotThatOfTheCodes) {
  Make(SamplePreset::kKimiInt4);
  Spoil(kUp + "weight_shape", 4, "\x08");  // 256 columns become 264
  ExpectOne("wrong-weight-shape", kUp + "weight_shape", "says [128, 264]",
            "holds a weight of shape [128, 256]");
}

TEST_F(FormValuesTest, NamesGroupScalesThatAreNaN) {
  Make(SamplePreset::kKimiInt4);
  Spoil(kUp + "weight_scale", (3 * 8 + 5) * 2, "\xC0\x7F");
  ExpectOne("bad-scale", kUp + "weight_scale", "[3, 5]", "nan");
  Make(SamplePreset::kNvFp4);
  Spoil(kUp + "weight_scale", 4 * 16 + 9, "\x7F");
  ExpectOne("bad-scale", kUp + "weight_scale", "[4, 9]", "nan");
}

TEST_F(FormValuesTest, NamesTheE8M0CodeThatIsNoNumber) {
  Make(SamplePreset::kV4);
  const std::string expert = "layers.1.ffn.experts.2.w1.scale";  // 256 × 8
  Spoil(expert, 7 * 8 + 2, "\xFF");
  ExpectOne("bad-scale", expert, "[7, 2]", "the NaN code 0xFF");
}

// 2^-127 is a number, but only blocks of zeros have it.
TEST_F(FormValuesTest, FindsE8M0ScalesThatWereNeverWritten) {
  Make(SamplePreset::kV4);
  const std::string expert = "layers.1.ffn.experts.2.w1.";  // 256 × 256, groups of 32
  Spoil(expert + "scale", 64, std::string(4, '\0'));
  ExpectOne("zero-scales", expert + "scale", "4 of its scales are 2^-127",
            expert + "weight' are nearly zero");
  Spoil(expert + "scale", 0, std::string(std::size_t{256} * 8, '\0'));
  EXPECT_THAT(Findings(), Contains(Field(&formats::Finding::kind, "zero-scales")));
  Spoil(expert + "weight", 0, std::string(std::size_t{256} * 128, '\0'));
  EXPECT_THAT(Findings(), Not(Contains(Field(&formats::Finding::kind, "zero-scales"))));

  Make(SamplePreset::kV4);
  const std::string attention = "layers.1.attn.wq_b.";  // FP8, 512 × 128, blocks of 128 × 128
  Spoil(attention + "scale", 3, std::string(1, '\0'));
  ExpectOne("zero-scales", attention + "scale", "1 of its scales is 2^-127", attention);
}

}  // namespace
}  // namespace dsv3::testing
