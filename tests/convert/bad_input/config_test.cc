#include <filesystem>
#include <string>

#include "formats/json/json_edit.h"
#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

class ConfigTest : public BadInputTest {
 protected:
  void SetQuantization(const std::string& member, const std::string& value) {
    checkpoint_.config = formats::ReplaceJsonMember(
        checkpoint_.config, "quantization_config/" + member, value, "config.json");
  }
};

TEST_F(ConfigTest, RefusesACheckpointWithoutConfig) {
  checkpoint_.config.clear();
  WriteInput();
  ExpectBadInput(in().string(), "no config.json", "copy it");
}

TEST_F(ConfigTest, RefusesALoneFileWithoutConfig) {
  checkpoint_.config.clear();
  checkpoint_.has_index = false;
  WriteInput();
  request_.input = in() / kTinyShard1;
  std::filesystem::remove(in() / kTinyShard2);
  ExpectBadInput("no config.json");
}

TEST_F(ConfigTest, RefusesWhatIsNoJsonObject) {
  for (const char* text : {"", "{", "[]", "null", "model", "{\"model_type\": }", "{} x",
                           "{\"model_type\": \"a\xFF\"}", "\xEF\xBB\xBF{"}) {
    SCOPED_TRACE(text);
    WriteInput();
    WriteFile(in() / "config.json", text);
    ExpectBadInput("config.json", "download");
  }
}

TEST_F(ConfigTest, RefusesAFieldGivenTwice) {
  WriteInput();
  WriteFile(in() / "config.json", R"({"model_type": "a", "model_type": "b"})");
  ExpectBadInput("config.json", "'model_type' twice");
}

TEST_F(ConfigTest, RefusesDeepNesting) {
  WriteInput();
  WriteFile(in() / "config.json", "{\"a\": " + std::string(1'000'000, '['));
  ExpectBadInput("config.json", "127 levels");
}

TEST_F(ConfigTest, RefusesATebibyteWithoutReadingIt) {
  WriteInput();
  std::filesystem::resize_file(in() / "config.json", std::uint64_t{1} << 40);
  ExpectBadInput("config.json", "1,099,511,627,776 bytes", "download");
}

TEST_F(ConfigTest, RefusesABlockSizeThatContradictsTheScales) {
  SetQuantization("weight_block_size", "[128, 128]");
  WriteInput();
  ExpectBadInput(kTinyShard1, "'a.weight_scale_inv' has shape [3, 2]", "expected [1, 1]",
                 "weight_block_size [128, 128] of config.json");
}

TEST_F(ConfigTest, RefusesAMissingQuantizationConfig) {
  checkpoint_.config =
      formats::RemoveJsonMember(checkpoint_.config, "quantization_config", "config.json");
  WriteInput();
  ExpectBadInput("config.json", "no quantization_config", "restore the config.json");
}

TEST_F(ConfigTest, RefusesAMissingBlockSize) {
  checkpoint_.config = formats::RemoveJsonMember(
      checkpoint_.config, "quantization_config/weight_block_size", "config.json");
  WriteInput();
  ExpectBadInput("config.json", "no weight_block_size", "[128, 128]");
}

TEST_F(ConfigTest, RefusesAMalformedBlockSize) {
  for (const char* value : {"128", "[128]", "[128, 128, 1]", "[0, 128]", "[-4, 8]", "[4.0, 8]",
                            "\"4x8\"", "[4, null]", "{}", "[18446744073709551616, 8]"}) {
    SCOPED_TRACE(value);
    checkpoint_ = SmallFp8Checkpoint();
    SetQuantization("weight_block_size", value);
    WriteInput();
    ExpectBadInput("config.json", "quantization_config.weight_block_size", "two positive integers");
  }
}

TEST_F(ConfigTest, RefusesAQuantizationConfigThatIsNoObject) {
  checkpoint_.config = formats::ReplaceJsonMember(checkpoint_.config, "quantization_config",
                                                  "\"fp8\"", "config.json");
  WriteInput();
  ExpectBadInput("config.json", "'quantization_config' must be an object", "\"fp8\"");
}

TEST_F(ConfigTest, RefusesAnotherQuantMethod) {
  SetQuantization("quant_method", "\"bitsandbytes\"");
  WriteInput();
  ExpectBadInput("config.json", "quant_method is \"bitsandbytes\"", "expected \"fp8\"");
}

TEST_F(ConfigTest, OnlyWarnsOfAnUnknownModelType) {
  WriteInput();
  const convert::ConversionReport report = Convert();
  EXPECT_EQ(report.outcome, convert::ConversionReport::Outcome::kConverted);
  EXPECT_THAT(Warnings(report),
              ::testing::ElementsAre(::testing::AllOf(::testing::HasSubstr("config.json"),
                                                      ::testing::HasSubstr("'tiny_for_tests'"))));
}

}  // namespace
}  // namespace dsv3::testing
