#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-convert pack and unpack from the outside.
namespace dsv3::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PackCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const ToolResult made =
        RunTool({"dsv3-convert", "sample", in_, "--preset", "tiny", "--seed", "3", "--quiet"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }

  static json Report(const ToolResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    json report = json::parse(result.out);
    const json schema = json::parse(ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) /
                                             "docs/schemas/convert-report.schema.json"));
    EXPECT_EQ(SchemaComplaints(schema, report), "");
    return report;
  }

  TempDir dir_;
  std::string in_ = (dir_ / "in").string();
  std::string packed_ = (dir_ / "packed").string();
  std::string out_ = (dir_ / "out").string();
};

TEST_F(PackCommandTest, ASampleComesBack) {
  const ToolResult packed = RunTool({"dsv3-convert", "pack", in_, packed_});
  EXPECT_EQ(packed.exit_code, 0) << packed.err;
  EXPECT_THAT(packed.out, HasSubstr("Packed: " + packed_ + "\n"));
  EXPECT_THAT(packed.out, HasSubstr("  packed      "));
  EXPECT_THAT(packed.out, HasSubstr("  manifest    " + packed_ + "/packed.json\n"));
  const ToolResult unpacked = RunTool({"dsv3-convert", "unpack", packed_, out_});
  EXPECT_EQ(unpacked.exit_code, 0) << unpacked.err;
  EXPECT_THAT(unpacked.out, HasSubstr("Unpacked: " + out_ + "\n"));
  auto files = ReadTree(out_);
  EXPECT_EQ(files.erase("checkpoint.manifest.json"), 1U);
  EXPECT_EQ(files, ReadTree(in_));
  for (const std::vector<std::string>& again : std::vector<std::vector<std::string>>{
           {"dsv3-convert", "pack", in_, packed_}, {"dsv3-convert", "unpack", packed_, out_}}) {
    const ToolResult result = RunTool(again);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("Nothing to do"));
  }
}

// More files could advance together than the process may have open.
TEST_F(PackCommandTest, ManyFilesArePackedWithFewDescriptors) {
  const std::filesystem::path many = dir_ / "many";
  std::filesystem::create_directory(many);
  for (int i = 0; i < 20; ++i) {
    const std::string name = "t" + std::to_string(10 + i);
    const std::string header =
        "{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}} ";
    WriteFile(many / (name + ".safetensors"),
              std::string{static_cast<char>(header.size())} + std::string(7, '\0') + header + "x");
  }
  const ToolResult packed = RunTool({"/bin/sh", "-c", "ulimit -n 40; exec \"$@\"", "sh",
                                     DSV3_BIN_DIR "/dsv3-convert", "pack", many.string(), packed_});
  EXPECT_EQ(packed.exit_code, 0) << packed.err;
  EXPECT_EQ(RunTool({"dsv3-convert", "unpack", packed_, out_}).exit_code, 0);
  auto files = ReadTree(out_);
  files.erase("checkpoint.manifest.json");
  EXPECT_EQ(files, ReadTree(many.string()));
}

TEST_F(PackCommandTest, JsonReportsConformToTheirSchema) {
  const json planned =
      Report(RunTool({"dsv3-convert", "pack", "--dry-run", "--json", in_, packed_}));
  EXPECT_EQ(planned["outcome"], "planned");
  const json packed = Report(RunTool({"dsv3-convert", "pack", "--json", in_, packed_}));
  EXPECT_EQ(packed["command"], "pack");
  EXPECT_LT(packed["output_bytes"], packed["source_bytes"]);
  const json unpacked = Report(RunTool({"dsv3-convert", "unpack", "--json", packed_, out_}));
  EXPECT_EQ(unpacked["command"], "unpack");
  EXPECT_EQ(unpacked["converted_tensors"], packed["converted_tensors"]);
}

TEST_F(PackCommandTest, TensorsMakeACheckpointOfTheirOwn) {
  ASSERT_EQ(RunTool({"dsv3-convert", "pack", in_, packed_}).exit_code, 0);
  const json report = Report(RunTool({"dsv3-convert", "unpack", "--json", "--tensors", "*.norm.*",
                                      "--tensors", "model.embed_tokens.weight", packed_, out_}));
  EXPECT_GE(report["tensors"], 1);
  EXPECT_LT(report["tensors"], 10);
  const json list = json::parse(RunTool({"dsv3-inspect", "--list", "--json", out_}).out);
  EXPECT_EQ(list["tensors"].size(), report["tensors"]);
}

TEST_F(PackCommandTest, ExitCodesSayWhatIsWrong) {
  EXPECT_EQ(RunTool({"dsv3-convert", "pack", in_, in_ + "/packed"}).exit_code, 2);
  EXPECT_EQ(RunTool({"dsv3-convert", "unpack", in_, out_}).exit_code, 3);
  ASSERT_EQ(RunTool({"dsv3-convert", "pack", in_, packed_}).exit_code, 0);
  EXPECT_EQ(RunTool({"dsv3-convert", "pack", packed_, out_}).exit_code, 3);
  const ToolResult none =
      RunTool({"dsv3-convert", "unpack", "--tensors", "nothing", packed_, out_});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.err, HasSubstr("--tensors"));
  std::filesystem::remove(packed_ + "/packed.json");
  EXPECT_EQ(RunTool({"dsv3-convert", "unpack", packed_, out_}).exit_code, 3);
}

TEST_F(PackCommandTest, InspectShowsTheRatioOfEachDtype) {
  ASSERT_EQ(RunTool({"dsv3-convert", "pack", in_, packed_, "--quiet"}).exit_code, 0);
  const json report = json::parse(RunTool({"dsv3-inspect", packed_, "--json"}).out);
  EXPECT_EQ(SchemaComplaints(json::parse(ReadFile(std::filesystem::path(DSV3_SOURCE_DIR) /
                                                  "docs/schemas/inspect-report.schema.json")),
                             report),
            "");
  const json original = json::parse(RunTool({"dsv3-inspect", in_, "--json"}).out);
  std::uint64_t packed = 0;
  ASSERT_EQ(report["dtypes"].size(), original["dtypes"].size());
  for (std::size_t i = 0; i < report["dtypes"].size(); ++i) {
    EXPECT_EQ(report["dtypes"][i]["bytes"], original["dtypes"][i]["bytes"]);
    EXPECT_FALSE(original["dtypes"][i].contains("packed_bytes"));
    packed += report["dtypes"][i]["packed_bytes"].get<std::uint64_t>();
  }
  std::uint64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(packed_)) {
    if (entry.path().extension() == ".packed") files += entry.file_size();
  }
  EXPECT_LT(packed, files);
  EXPECT_GT(packed, files * 9 / 10);
  EXPECT_THAT(RunTool({"dsv3-inspect", packed_}).out, HasSubstr(" (packed "));
}

}  // namespace
}  // namespace dsv3::testing
