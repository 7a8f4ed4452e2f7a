#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/formats/support/gguf_maker.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-inspect, dsv3-verify compare and numeric on GGUF files, from the outside.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class GgufReadingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GgufMaker made;
    made.Key("deepseek2.block_count", std::uint32_t{3})
        .Key("deepseek2.expert_count", std::uint32_t{4})
        .Key("deepseek2.expert_used_count", std::uint32_t{2})
        .Key("deepseek2.rope.freq_base", 10'000.0F)
        .Key("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b\x1b", "c", "dd"})
        .Key("tokenizer.ggml.token_type", std::vector<std::int32_t>{1, 1, -1, 3, 3})
        .Key("tokenizer.ggml.add_bos_token", true)
        .Key("tokenizer.chat_template", "{{ x }}\n" + std::string(100, 'y'))
        .Add("token_embd.weight", GgufType::kF16, {6, 32}, std::string(384, '\x31'));
    for (const char* const block : {"0", "1", "2"}) {
      made.Add(std::string("blk.") + block + ".ffn_gate_exps.weight", GgufType::kQ8_0, {4, 2, 32},
               std::string(8 * 34, '\x31'));
    }
    made.Add("blk.1.odd.weight", formats::FindGgufType(12)->type, {1, 256});
    made.Write(file_);
    made = GgufMaker();
    made.Add("output.weight", GgufType::kF32, {1, 2}, std::string("\0\0\x80?\0\0\0@", 8));
    made.Write(small_);
  }

  static ToolResult Inspect(std::vector<std::string> words) {
    words.insert(words.begin(), "dsv3-inspect");
    return RunTool(words);
  }

  static json Json(const ToolResult& result, const std::string& schema) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    if (!json::accept(result.out)) throw std::runtime_error(result.out);
    const fs::path path = fs::path(DSV3_SOURCE_DIR) / "docs/schemas" / (schema + ".schema.json");
    EXPECT_EQ(SchemaComplaints(json::parse(ReadFile(path)), json::parse(result.out)), "");
    return json::parse(result.out);
  }

  TempDir dir_;
  std::string file_ = (dir_ / "m.gguf").string();
  std::string small_ = (dir_ / "small.gguf").string();
};

TEST_F(GgufReadingTest, InspectShowsKeysAndTensors) {
  const ToolResult shown = Inspect({file_});
  ASSERT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("  format        GGUF, version 3\n"));
  EXPECT_THAT(shown.out, HasSubstr("  architecture  deepseek2\n"));
  EXPECT_THAT(shown.out, HasSubstr("activated per token (1,216; 672)"));
  EXPECT_THAT(shown.out, HasSubstr("5 in 1 file"));
  EXPECT_THAT(shown.out, HasSubstr("deepseek2.block_count         u32     3\n"));
  EXPECT_THAT(shown.out, HasSubstr("[text]  4: 'a', 'b\\x1b', 'c', …\n"));
  EXPECT_THAT(shown.out, HasSubstr("[i32]   5: 1, 1, -1, …\n"));
  EXPECT_THAT(shown.out, HasSubstr("bool    true\n"));
  EXPECT_THAT(shown.out, HasSubstr("…', 108 bytes\n"));
  EXPECT_THAT(shown.out, HasSubstr("blk.[0-2].ffn_gate_exps.weight  Q8_0  [4, 2, 32]"));
  EXPECT_THAT(shown.out, HasSubstr("blk.1.odd.weight                Q4_K  [1, 256]"));
}

TEST_F(GgufReadingTest, InspectReportsAsJson) {
  const json report = Json(Inspect({file_, "--json"}), "inspect-gguf");
  EXPECT_EQ(report["form"], "gguf");
  EXPECT_EQ(report["architecture"], "deepseek2");
  EXPECT_EQ(report["parameters"], 192 + 3 * 256 + 256);
  EXPECT_EQ(report["activated_parameters"], 32 + 3 * 128 + 256);
  EXPECT_EQ(report["tensors"], 5);
  EXPECT_EQ(report["tensor_bytes"], 384 + 3 * 8 * 34 + 144);
  EXPECT_EQ(report["file_bytes"], fs::file_size(file_));
  EXPECT_EQ(report["types"][0]["type"], "Q8_0");
  EXPECT_EQ(report["types"][0]["elements"], 768);
  EXPECT_EQ(report["groups"][1]["name"], "blk.[0-2].ffn_gate_exps.weight");
  EXPECT_EQ(report["groups"][1]["tensors"], 3);
  const auto key = [&](const std::string& name) {
    for (const json& each : report["keys"]) {
      if (each["key"] == name) return each;
    }
    throw std::out_of_range(name);
  };
  EXPECT_EQ(key("deepseek2.rope.freq_base")["value"], 10000.0);
  EXPECT_EQ(key("tokenizer.ggml.tokens")["count"], 4);
  EXPECT_EQ(key("tokenizer.ggml.tokens")["first"], json({"a", "b\x1b", "c"}));
  EXPECT_EQ(key("tokenizer.ggml.token_type")["kind"], "[i32]");
}

TEST_F(GgufReadingTest, InspectListsAndMeasuresUnderTheFilesNames) {
  const json list = Json(Inspect({file_, "--json", "--list"}), "inspect-list");
  ASSERT_EQ(list["tensors"].size(), 5U);
  EXPECT_EQ(list["tensors"][4]["dtype"], "Q4_K");
  EXPECT_EQ(list["tensors"][4]["shape"], json({1, 256}));
  EXPECT_EQ(list["tensors"][4]["file"], "m.gguf");
  EXPECT_EQ(list["tensors"][1]["bytes"], 272);
  const ToolResult text = Inspect({file_, "--list", "--tensor", "blk.1.*"});
  EXPECT_THAT(text.out, HasSubstr("blk.1.ffn_gate_exps.weight  Q8_0  [4, 2, 32]  272  m.gguf\n"));

  const json one = Json(Inspect({small_, "--json", "--tensor", "output.weight"}), "inspect-tensor");
  EXPECT_EQ(one["dtype"], "F32");
  EXPECT_EQ(one["stored"]["max"], 2.0);
  // Scale 0x3131, codes 49.
  const json blocks =
      Json(Inspect({file_, "--json", "--tensor", "blk.2.ffn_gate_exps.weight"}), "inspect-tensor");
  EXPECT_EQ(blocks["dtype"], "Q8_0");
  EXPECT_EQ(blocks["shape"], json({4, 2, 32}));
  EXPECT_EQ(blocks["bytes"], 272);
  EXPECT_NEAR(blocks["stored"]["max"].get<double>(), 49 * 0.162231, 1e-3);
  EXPECT_EQ(blocks["stored"]["values"], 256);
  const json both = Json(Inspect({file_, "--json", "--tensor", "blk.1.*"}), "inspect-tensors");
  EXPECT_EQ(both["tensors"][1]["note"], "Values of type Q4_K are not decoded.");
  EXPECT_TRUE(both["tensors"][1]["stored"].is_null());
  EXPECT_THAT(Inspect({file_, "--tensor", "blk.1.odd.weight"}).out,
              AllOf(HasSubstr("type   Q4_K\n"), HasSubstr("are not decoded")));
  const ToolResult none = Inspect({file_, "--tensor", "blk.1.od.weight"});
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.err, HasSubstr("'blk.1.odd.weight'"));
}

TEST_F(GgufReadingTest, NumericAndCompareRefuseATypeByName) {
  for (const ToolResult& result : {RunTool({"dsv3-verify", "numeric", file_}),
                                   RunTool({"dsv3-verify", "compare", file_, small_})}) {
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, HasSubstr("m.gguf: tensor 'blk.1.odd.weight' is Q4_K"));
  }
}

TEST_F(GgufReadingTest, BadFilesEndWithThree) {
  const std::string whole = ReadFile(file_);
  WriteFile(file_, whole.substr(0, 100));
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"dsv3-inspect"}, {"dsv3-verify", "numeric"}}) {
    std::vector<std::string> words = command;
    words.push_back(file_);
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, HasSubstr("m.gguf: "));
    EXPECT_EQ(result.out, "");
  }
  WriteFile(file_, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(Inspect({file_}).err, HasSubstr("git-lfs pointer"));
}

TEST_F(GgufReadingTest, OtherCommandsSayWhichReadIt) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"dsv3-convert", "fp8-to-bf16", file_, (dir_ / "out").string()},
        {"dsv3-convert", "to-gguf", file_, (dir_ / "o.gguf").string(), "--type", "f16"},
        {"dsv3-reshard", "--tp", "2", file_, (dir_ / "out").string()},
        {"dsv3-verify", "forward", file_, "--tokens", "1,2"}}) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 3) << words[1];
    EXPECT_THAT(result.err, AllOf(HasSubstr("it is a GGUF file"), HasSubstr("dsv3-inspect")))
        << words[1];
  }
  EXPECT_FALSE(fs::exists(dir_ / "out"));
  const ToolResult directory = Inspect({dir_.path().string()});
  EXPECT_EQ(directory.exit_code, 3);
  EXPECT_THAT(directory.err, HasSubstr("it holds GGUF files: name one of them"));
}

TEST_F(GgufReadingTest, AnOptionForOtherInputsIsRefused) {
  const ToolResult result = Inspect({file_, "--from", "megatron"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--from: a GGUF file says itself"));
}

TEST_F(GgufReadingTest, AConvertedModelPassesAllChecks) {
  const std::string in = (dir_ / "in").string();
  const std::string out = (dir_ / "out.gguf").string();
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", in, "--quiet"}).exit_code, 0);
  ASSERT_EQ(RunTool({"dsv3-convert", "to-gguf", in, out, "--type", "bf16", "-q"}).exit_code, 0);
  const ToolResult compared = RunTool({"dsv3-verify", "compare", in, out, "--json"});
  const json report = Json(compared, "verify-compare");
  EXPECT_EQ(report["counts"]["different"], 0);
  EXPECT_EQ(report["findings"][0]["kind"], "left-out");
  const json numeric = Json(RunTool({"dsv3-verify", "numeric", out, "--json"}), "verify-numeric");
  EXPECT_TRUE(numeric["findings"].empty());
  Json(Inspect({out, "--json"}), "inspect-gguf");
  const json structure =
      Json(RunTool({"dsv3-verify", "structure", out, "--json"}), "verify-structure");
  EXPECT_EQ(structure["model_type"], "deepseek2");
  const ToolResult checked = RunTool({"dsv3-verify", "checksum", "check", out});
  EXPECT_EQ(checked.exit_code, 0) << checked.err;
  EXPECT_THAT(checked.out, HasSubstr("against  out.gguf.manifest.json\n"));
  const ToolResult all = RunTool({"dsv3-verify", "all", out});
  EXPECT_EQ(all.exit_code, 0) << all.out;
  EXPECT_THAT(all.out, HasSubstr("keys and tensors agree"));
  EXPECT_THAT(all.out, HasSubstr("OK: 3 checks passed"));
  EXPECT_THAT(Inspect({out}).out, HasSubstr("tokenizer.ggml.tokens"));
}

}  // namespace
}  // namespace dsv3::testing
