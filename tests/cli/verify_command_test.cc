#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/cli/json_schema.h"
#include "tests/cli/run_tool.h"
#include "tests/formats/signature_vectors.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// dsv3-verify from the outside: exit codes, what stands where, and the forms of its reports.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kConfig = "config.json";

class VerifyCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(RunTool({"dsv3-convert", "sample", model_, "--quiet"}).exit_code, 0);
    WriteFile(dir_ / "key.pem", kSignatureVectors[0].private_key);
    WriteFile(dir_ / "key.pub", kSignatureVectors[0].public_key);
    WriteFile(dir_ / "other.pub", kSignatureVectors[1].public_key);
  }

  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  static ToolResult Verify(std::vector<std::string> words) {
    words.insert(words.begin(), "dsv3-verify");
    words.emplace_back("--no-progress");
    return RunTool(words);
  }

  // The command in its other forms: JSON that conforms, quiet, a pipe without a reader.
  void ExpectForms(const std::vector<std::string>& words, int exit_code,
                   const std::string& schema) const {
    const auto with = [&](const std::string& option) {
      std::vector<std::string> more = words;
      more.push_back(option);
      return Verify(std::move(more));
    };
    const ToolResult report = with("--json");
    EXPECT_EQ(report.exit_code, exit_code) << report.err;
    EXPECT_EQ(report.err, "");
    ASSERT_TRUE(json::accept(report.out)) << report.out;
    const json rules = json::parse(
        ReadFile(fs::path(DSV3_SOURCE_DIR) / "docs/schemas" / (schema + ".schema.json")));
    EXPECT_EQ(SchemaComplaints(rules, json::parse(report.out)), "");
    const ToolResult quiet = with("--quiet");
    EXPECT_EQ(quiet.exit_code, exit_code);
    EXPECT_EQ(quiet.err, "");
    if (words[0] == "sign") {
      EXPECT_EQ(quiet.out, "");
    } else {
      EXPECT_THAT(quiet.out, StartsWith(exit_code == 0 ? "OK: " : "FAILED: "));
      EXPECT_EQ(std::count(quiet.out.begin(), quiet.out.end(), '\n'), 1) << "the verdict alone";
    }
  }

  // Writes one byte of a file anew.
  void Flip(const std::string& name, std::size_t offset) const {
    std::string content = ReadFile(fs::path(model_) / name);
    content.at(offset) = static_cast<char>(content.at(offset) ^ 1);
    WriteFile(fs::path(model_) / name, content);
  }

  TempDir dir_;
  std::string model_ = (dir_ / "model").string();
};

TEST_F(VerifyCommandTest, ChecksumCreateWritesAndCheckFindsADifference) {
  const ToolResult created = Verify({"checksum", "create", model_});
  EXPECT_EQ(created.exit_code, 0) << created.err;
  EXPECT_EQ(created.err, "");
  EXPECT_THAT(created.out, StartsWith("Wrote checkpoint.manifest.json and SHA256SUMS: " + model_));
  EXPECT_THAT(created.out, EndsWith("OK: the checksums are in place\n"));
  ExpectForms({"checksum", "create", model_}, 0, "verify-checksum-create");
  const ToolResult good = Verify({"checksum", "check", model_});
  EXPECT_EQ(good.exit_code, 0);
  EXPECT_THAT(good.out, AllOf(HasSubstr("against  checkpoint.manifest.json\n"),
                              EndsWith("OK: every file is as recorded\n")));
  ExpectForms({"checksum", "check", model_}, 0, "verify-checksum-check");

  Flip(kConfig, 6);  // within a key: it is still JSON
  const ToolResult bad = Verify({"checksum", "check", model_});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_EQ(bad.err, "");
  EXPECT_THAT(bad.out, AllOf(HasSubstr("error: config.json: "), HasSubstr("[wrong-digest]\n"),
                             EndsWith("FAILED: 1 error\n")));
  ExpectForms({"checksum", "check", model_}, 1, "verify-checksum-check");
  EXPECT_EQ(Verify({"checksum", "check", "--quick", model_}).exit_code, 0);

  const ToolResult refused = Verify({"checksum", "create", model_});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.out, HasSubstr("nothing was written; if the files are right and"));
  ExpectForms({"checksum", "create", model_}, 1, "verify-checksum-create");
  EXPECT_EQ(Verify({"checksum", "create", "--overwrite", model_}).exit_code, 0);
  EXPECT_EQ(Verify({"checksum", "check", model_}).exit_code, 0);
}

TEST_F(VerifyCommandTest, ChecksumCheckWithNothingToCompareWithIsBadInput) {
  const ToolResult result = Verify({"checksum", "check", model_});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("dsv3-verify: error: "));
}

TEST_F(VerifyCommandTest, ForwardRunsTokens) {
  const ToolResult result =
      Verify({"forward", model_, "--tokens", "1,2,3", "--top", "2", "--generate", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, AllOf(StartsWith("Ran " + model_), HasSubstr("3 in 1 sequence\n"),
                                HasSubstr("perplexity"), HasSubstr("generated"),
                                EndsWith("OK: every weight that was met is finite\n")));
  ExpectForms({"forward", model_, "--tokens", "1,2,3", "--top", "2", "--generate", "2", "--routing",
               "--logits-out", Path("logits.npy")},
              0, "verify-forward");
  EXPECT_THAT(ReadFile(dir_ / "logits.npy"), StartsWith("\x93NUMPY"));

  const ToolResult same = Verify({"forward", model_, model_, "--tokens", "1,2,3"});
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_THAT(same.out, AllOf(StartsWith("Ran " + model_ + " and " + model_),
                              HasSubstr("NMSE 0, smallest cosine 1.000000000")));
  ExpectForms({"forward", model_, model_, "--tokens", "1,2,3"}, 0, "verify-forward");
  const std::string other = Path("other");
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", other, "--seed", "9", "-q"}).exit_code, 0);
  const ToolResult differ = Verify({"forward", model_, other, "--tokens", "1,2,3"});
  EXPECT_EQ(differ.exit_code, 1);
  EXPECT_THAT(differ.out,
              AllOf(HasSubstr("'model.embed_tokens.weight': OTHER's tensor has other values"),
                    HasSubstr("[forward-difference]"), HasSubstr("\nFAILED: ")));
  ExpectForms({"forward", model_, other, "--tokens", "1,2,3"}, 1, "verify-forward");
  EXPECT_EQ(Verify({"forward", model_, other, "--tokens", "1,2,3", "--max-nmse", "1e9"}).exit_code,
            0);
  EXPECT_EQ(Verify({"forward", model_, other, "--tokens", "1,2,3", "--max-nmse", "bf16"}).exit_code,
            1);
  EXPECT_EQ(Verify({"forward", model_, model_, "x"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--max-kl", "1"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, model_, "--max-nmse", "bf"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, Path("nowhere")}).exit_code, 3);

  EXPECT_EQ(Verify({"forward", model_, "--tokens", "1,x"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--tokens", "-1"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--tokens", "1", "--tokens-file", "f"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--weights", "int4"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--logits-out", Path("no/where.npy")}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", Path("nowhere")}).exit_code, 3);
}

TEST_F(VerifyCommandTest, ForwardNamesTheRankOfACopy) {
  const std::string ranks = Path("ranks");
  ASSERT_EQ(RunTool({"dsv3-reshard", "--ep", "2", model_, ranks, "-q"}).exit_code, 0);
  const ToolResult good = Verify({"forward", ranks, "--tokens", "1,2,3"});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_THAT(good.out, AllOf(HasSubstr("2: TP 1, EP 2, DP 2, PP 1\n"),
                              EndsWith("all ranks have the same copies of it\n")));
  ExpectForms({"forward", ranks, "--tokens", "1,2,3"}, 0, "verify-forward");

  const fs::path file = dir_ / "ranks" / "model-rank-1-part-0.safetensors";
  std::string bytes = ReadFile(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const json norm = json::parse(bytes.substr(sizeof(header), header))["model.norm.weight"];
  // The sign of the first element.
  bytes[sizeof(header) + header + norm["data_offsets"][0].get<std::size_t>() + 1] ^= '\x80';
  WriteFile(file, bytes);
  const std::vector<std::string> words = {"forward", ranks, "--tokens", "1,2,3"};
  const ToolResult bad = Verify(words);
  EXPECT_EQ(bad.exit_code, 1) << bad.err;
  EXPECT_THAT(bad.out, AllOf(HasSubstr("model-rank-1-part-0.safetensors: tensor "
                                       "'model.norm.weight': rank 1's copy has other values"),
                             HasSubstr("[rank-difference]")));
  ExpectForms(words, 1, "verify-forward");
  const json report =
      json::parse(Verify({"forward", model_, ranks, "--tokens", "1,2,3", "--json"}).out);
  EXPECT_EQ(report["first_difference"]["tensor"], "model.norm.weight");
  EXPECT_EQ(report["first_difference"]["rank"], 1);
  EXPECT_EQ(report["ranks"]["ep"], 2);
  EXPECT_EQ(report["differences"].size(), 1U);
}

TEST_F(VerifyCommandTest, ForwardAddsTokensForExperts) {
  const ToolResult result = Verify({"forward", model_, "--tokens", "auto"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("4,096 in 64 sequences\n"),
                                HasSubstr("23 of 24 were met; of 1 expert nothing is shown\n")));
  ExpectForms({"forward", model_, "--tokens", "auto"}, 0, "verify-forward");
  EXPECT_THAT(Verify({"forward", model_, "--tokens", "auto", "--json"}).out,
              HasSubstr("\"experts_not_met\": 1,"));
}

TEST_F(VerifyCommandTest, ForwardComparesWhatItWasAskedFor) {
  ExpectForms({"forward", model_, model_, "--tokens", "1,2,3", "--generate", "2",
               "--mtp-logits-out", Path("mtp.npy")},
              0, "verify-forward");
  const ToolResult result = Verify({"forward", model_, model_, "--tokens", "1,2,3", "--generate",
                                    "2", "--mtp-logits-out", Path("mtp.npy")});
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("MTP logits"), HasSubstr("100 % of the tokens are the same")));
}

TEST_F(VerifyCommandTest, ForwardTracesModules) {
  const std::string trace = Path("trace.safetensors");
  const ToolResult all = Verify({"forward", model_, "--tokens", "1,2,3", "--trace", trace});
  EXPECT_EQ(all.exit_code, 0) << all.err;
  EXPECT_THAT(ReadFile(trace), AllOf(HasSubstr("\"lm_head\":"), HasSubstr("\"model.norm\":")));
  EXPECT_EQ(Verify({"forward", model_, "--tokens", "1,2,3", "--trace", trace, "--modules",
                    "*.kv_a_layernorm"})
                .exit_code,
            0);
  EXPECT_THAT(ReadFile(trace), AllOf(HasSubstr("\"model.layers.0.self_attn.kv_a_layernorm\":"),
                                     Not(HasSubstr("lm_head"))));
  EXPECT_EQ(Verify({"forward", model_, "--trace", trace, "--modules", "x"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--modules", "*"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--trace", Path("no/where")}).exit_code, 2);
}

TEST_F(VerifyCommandTest, ForwardComparesWithADump) {
  const std::string dump = Path("dump.safetensors");
  ASSERT_EQ(Verify({"forward", model_, "--tokens", "1,2,3", "--trace", dump}).exit_code, 0);
  const ToolResult same = Verify({"forward", model_, "--tokens", "1,2,3", "--against", dump});
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_THAT(
      same.out,
      AllOf(StartsWith("Ran " + model_ + " against " + dump), HasSubstr(" modules in F32\n"),
            EndsWith("OK: every module that was compared gives the same output\n")));
  ExpectForms({"forward", model_, "--tokens", "1,2,3", "--against", dump}, 0, "verify-forward");

  const std::string other = Path("other");
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", other, "--seed", "9", "-q"}).exit_code, 0);
  const ToolResult differ = Verify({"forward", other, "--tokens", "1,2,3", "--against", dump});
  EXPECT_EQ(differ.exit_code, 1);
  EXPECT_THAT(differ.out,
              AllOf(HasSubstr("model.embed_tokens is the first module whose output differs"),
                    HasSubstr("[forward-difference]"), HasSubstr("\nFAILED: 1 error\n")));
  ExpectForms({"forward", other, "--tokens", "1,2,3", "--against", dump}, 1, "verify-forward");
  EXPECT_EQ(Verify({"forward", other, "--tokens", "1,2,3", "--against", dump, "--max-nmse", "1e9"})
                .exit_code,
            0);

  EXPECT_EQ(Verify({"forward", model_, "--tokens", "1,2", "--against", dump}).exit_code, 3);
  EXPECT_EQ(Verify({"forward", model_, "--against", Path("nowhere")}).exit_code, 3);
  EXPECT_EQ(Verify({"forward", model_, model_, "--against", dump}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--against", dump, "--max-kl", "1"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--against", dump, "--max-nmse", "bf16"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--max-nmse", "1"}).exit_code, 2);
  EXPECT_EQ(Verify({"forward", model_, "--against", dump, "--top", "1"}).exit_code, 2);
}

TEST_F(VerifyCommandTest, StructureListsEveryFinding) {
  EXPECT_EQ(Verify({"structure", model_}).exit_code, 0);
  EXPECT_EQ(Verify({"structure", "--strict", model_}).exit_code, 0);
  ExpectForms({"structure", model_}, 0, "verify-structure");
  std::string index = ReadFile(fs::path(model_) / "model.safetensors.index.json");
  index.replace(index.find("total_size\": ") + 13, 1, "9");
  WriteFile(fs::path(model_) / "model.safetensors.index.json", index);
  const ToolResult result = Verify({"structure", model_});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, AllOf(StartsWith("Checked the structure of " + model_ + "\n"),
                                HasSubstr("[wrong-total-size]\n"), HasSubstr("\nFAILED: ")));
  ExpectForms({"structure", model_}, 1, "verify-structure");
  EXPECT_EQ(Verify({"structure", Path("nowhere")}).exit_code, 3);
}

TEST_F(VerifyCommandTest, StrictFailsOnWarnings) {
  fs::create_symlink("nowhere", fs::path(model_) / "notes.txt");
  const ToolResult lenient = Verify({"structure", model_});
  EXPECT_EQ(lenient.exit_code, 0);
  EXPECT_THAT(lenient.out, HasSubstr("\nOK: 1 warning\n"));
  const ToolResult strict = Verify({"structure", model_, "--strict"});
  EXPECT_EQ(strict.exit_code, 1);
  EXPECT_THAT(strict.out, HasSubstr("\nFAILED: 1 warning, which --strict counts as errors\n"));
}

TEST_F(VerifyCommandTest, NumericShowsATableAndHistograms) {
  const ToolResult result = Verify({"numeric", model_, "--histogram", "model.norm.weight"});
  EXPECT_EQ(result.exit_code, 0) << result.out;
  EXPECT_THAT(result.out, AllOf(HasSubstr("tensor "), HasSubstr(" absmax "), HasSubstr("  2^")));
  ExpectForms({"numeric", model_, "--histogram", "*norm*"}, 0, "verify-numeric");
  const ToolResult none = Verify({"numeric", model_, "--histogram", "nothing"});
  EXPECT_EQ(none.exit_code, 0);
  EXPECT_THAT(none.err, HasSubstr("no tensor's name matches 'nothing'"));
  EXPECT_EQ(Verify({"numeric", Path("nowhere")}).exit_code, 3);
}

TEST_F(VerifyCommandTest, ReportsFitAScreenUnlessAllIsAskedFor) {
  const auto lines = [](const std::string& text) {
    return std::count(text.begin(), text.end(), '\n');
  };
  const ToolResult few = Verify({"numeric", model_});
  EXPECT_LE(lines(few.out), 24) << few.out;
  EXPECT_THAT(few.out, HasSubstr("more (--all shows them)\n"));
  const ToolResult every = Verify({"numeric", model_, "--all"});
  EXPECT_GT(lines(every.out), 150);
  EXPECT_THAT(every.out, HasSubstr("model.norm.weight"));

  // A config of more layers than the files have: hundreds of findings of one kind.
  std::string config = ReadFile(fs::path(model_) / kConfig);
  const std::string field = "\"num_hidden_layers\": ";
  config.replace(config.find(field) + field.size(), 1, "9");
  WriteFile(fs::path(model_) / kConfig, config);
  const ToolResult wrong = Verify({"structure", model_});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_LE(lines(wrong.out), 24) << wrong.out;
  EXPECT_THAT(wrong.out, HasSubstr("more of missing-tensor (--all shows them)\n"));
  EXPECT_GT(lines(Verify({"structure", model_, "--all"}).out), 100);
  EXPECT_GT(json::parse(Verify({"structure", model_, "--json"}).out)["findings"].size(), 100U);
}

TEST_F(VerifyCommandTest, VerdictsHaveColourWhereItIsWanted) {
  EXPECT_THAT(Verify({"structure", model_, "--color", "always"}).out,
              HasSubstr("\n\x1b[1;32mOK:\x1b[0m headers"));
  fs::create_symlink("nowhere", fs::path(model_) / "notes.txt");
  EXPECT_THAT(Verify({"structure", model_, "--color=always", "--strict"}).out,
              AllOf(HasSubstr("\x1b[1;33mwarning\x1b[0m: "),
                    HasSubstr("\n\x1b[1;31mFAILED:\x1b[0m 1 warning")));
  EXPECT_THAT(Verify({"structure", model_}).out, Not(HasSubstr("\x1b")));
}

TEST_F(VerifyCommandTest, AllRunsWhatAppliesAndSaysWhyNot) {
  const ToolResult plain = Verify({"all", model_});
  EXPECT_EQ(plain.exit_code, 0) << plain.out << plain.err;
  EXPECT_THAT(
      plain.out,
      AllOf(HasSubstr("  structure         passed"), HasSubstr("  provenance        skipped"),
            HasSubstr("there is no checkpoint.manifest.json\n"),
            HasSubstr("  checksum check    skipped"), HasSubstr("  numeric           passed"),
            EndsWith("\nOK: 2 checks passed\n")));
  ExpectForms({"all", model_}, 0, "verify-all");
  ASSERT_EQ(Verify({"checksum", "create", model_, "-q"}).exit_code, 0);
  ASSERT_EQ(Verify({"sign", model_, "--key", Path("key.pem"), "-q"}).exit_code, 0);
  EXPECT_THAT(Verify({"all", model_}).out,
              AllOf(HasSubstr("model.sig is there; give --key PUBLIC.pem to check it"),
                    EndsWith("\nOK: 3 checks passed\n")));
  const std::vector<std::string> call = {"all",     model_,        "--key",   Path("key.pub"),
                                         "--junit", Path("j.xml"), "--sarif", Path("s.json")};
  EXPECT_THAT(Verify(call).out, EndsWith("\nOK: 4 checks passed\n"));
  EXPECT_THAT(ReadFile(Path("j.xml")),
              AllOf(HasSubstr("<testsuite name=\"structure model\""),
                    HasSubstr("<testsuite name=\"checksum check model\""),
                    HasSubstr("<testsuite name=\"numeric model\""), HasSubstr("failures=\"0\"")));
  Flip(kConfig, 3);
  const ToolResult bad = Verify(call);
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.out,
              AllOf(HasSubstr("\nchecksum check:\nerror: config.json: "), HasSubstr("\nFAILED: ")));
  ExpectForms(call, 1, "verify-all");
  const json sarif = json::parse(ReadFile(Path("s.json")));
  ASSERT_EQ(sarif["runs"].size(), 1U);
  EXPECT_EQ(sarif["runs"][0]["invocations"].size(), 4U);
}

TEST_F(VerifyCommandTest, AllGoesOnWhereOneCheckCannotRun) {
  WriteFile(fs::path(model_) / "model.sig", "{}");
  const ToolResult result =
      Verify({"all", model_, "--key", Path("key.pub"), "--junit", Path("j.xml")});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("  verify-signature  error"), HasSubstr("  numeric           passed"),
                    EndsWith("\nFAILED: 1 of 3 checks\n")));
  EXPECT_THAT(ReadFile(Path("j.xml")), HasSubstr("<error message=\""));
}

TEST_F(VerifyCommandTest, FindingFilesSayWhatCouldNotRun) {
  for (const char* command : {"structure", "numeric", "all"}) {
    const ToolResult result =
        Verify({command, Path("nowhere"), "--junit", Path("j.xml"), "--sarif", Path("s.json")});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(ReadFile(Path("j.xml")),
                AllOf(HasSubstr("errors=\"1\""), HasSubstr("<error message=\""),
                      HasSubstr("type=\"bad-input\""), HasSubstr("timestamp=\"20")));
    const json sarif = json::parse(ReadFile(Path("s.json")));
    EXPECT_EQ(sarif["runs"][0]["invocations"][0]["executionSuccessful"], false);
    fs::remove(Path("j.xml"));
    fs::remove(Path("s.json"));
  }
}

TEST_F(VerifyCommandTest, CompareTellsWhetherValuesAreEqual) {
  EXPECT_EQ(Verify({"compare", model_, model_}).exit_code, 0);
  ASSERT_EQ(RunTool({"dsv3-convert", "fp8-to-bf16", model_, Path("bf16"), "-q"}).exit_code, 0);
  const ToolResult equal = Verify({"compare", model_, Path("bf16")});
  EXPECT_EQ(equal.exit_code, 0);
  EXPECT_THAT(equal.out, EndsWith("OK: all values are equal\n"));
  ExpectForms({"compare", model_, Path("bf16")}, 0, "verify-compare");
  const std::string other = Path("other");
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", other, "--seed", "9", "-q"}).exit_code, 0);
  const ToolResult differ = Verify({"compare", model_, other});
  EXPECT_EQ(differ.exit_code, 1);
  EXPECT_THAT(differ.out, HasSubstr("\nFAILED: "));
  ExpectForms({"compare", model_, other}, 1, "verify-compare");
  EXPECT_EQ(Verify({"compare", model_, other, "--atol", "1e9"}).exit_code, 0);
  for (const char* value : {"-1", "nan", "inf", "", "1x"}) {
    const ToolResult usage = Verify({"compare", model_, other, "--atol", value});
    EXPECT_EQ(usage.exit_code, 2);
    EXPECT_THAT(usage.err, HasSubstr("give a number that is not negative"));
  }
}

TEST_F(VerifyCommandTest, ProvenanceLeadsFromTheOutputToTheSource) {
  const std::string out = Path("bf16");
  ASSERT_EQ(Verify({"checksum", "create", model_, "-q"}).exit_code, 0);
  ASSERT_EQ(RunTool({"dsv3-convert", "fp8-to-bf16", model_, out, "-q"}).exit_code, 0);
  const ToolResult few = Verify({"provenance", out});
  EXPECT_THAT(few.out, HasSubstr("more (--all shows them)\n"));
  EXPECT_LT(std::count(few.out.begin(), few.out.end(), '\n'), 24) << "a screen";
  const ToolResult alone = Verify({"provenance", out, "--all"});
  EXPECT_EQ(alone.exit_code, 0);
  EXPECT_THAT(alone.out, AllOf(HasSubstr("fp8-to-bf16"), HasSubstr("dequantize"),
                               HasSubstr("model.norm.weight")));
  ExpectForms({"provenance", out}, 0, "verify-provenance");
  const ToolResult both = Verify({"provenance", out, "--source", model_});
  EXPECT_EQ(both.exit_code, 0);
  EXPECT_THAT(both.out, HasSubstr(" 0 differ, 0 unknown"));
  ExpectForms({"provenance", out, "--source", model_}, 0, "verify-provenance");
  const std::string other = Path("other");
  ASSERT_EQ(RunTool({"dsv3-convert", "sample", other, "--seed", "9", "-q"}).exit_code, 0);
  EXPECT_EQ(Verify({"provenance", out, "--source", other}).exit_code, 3);
  ASSERT_EQ(Verify({"checksum", "create", other, "-q"}).exit_code, 0);
  const ToolResult differs = Verify({"provenance", out, "--source", other});
  EXPECT_EQ(differs.exit_code, 1);
  EXPECT_THAT(differs.out, HasSubstr("[source-differs]"));
}

TEST_F(VerifyCommandTest, SignatureIsMadeCheckedAndNamesEveryFile) {
  const ToolResult made = Verify({"sign", model_, "--key", Path("key.pem")});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, AllOf(StartsWith("Signed " + model_ + "\n"), HasSubstr("model.sig\n"),
                              HasSubstr("P-256, public key ")));
  const std::vector<std::string> check = {"verify-signature", model_, "--key", Path("key.pub")};
  const ToolResult good = Verify(check);
  EXPECT_EQ(good.exit_code, 0);
  EXPECT_THAT(good.out, HasSubstr("\nOK: the key's owner signed the model"));
  ExpectForms(check, 0, "verify-signature");
  Flip(kConfig, 3);
  fs::remove(fs::path(model_) / "tokenizer_config.json");
  WriteFile(fs::path(model_) / "new", "");
  const ToolResult bad = Verify(check);
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_EQ(bad.err, "");
  EXPECT_THAT(bad.out,
              AllOf(HasSubstr("error: config.json: "), HasSubstr("error: new: "),
                    HasSubstr("error: tokenizer_config.json: "), EndsWith("FAILED: 3 errors\n")));
  ExpectForms(check, 1, "verify-signature");
}

TEST_F(VerifyCommandTest, SignatureReportsEveryWayToFail) {
  const ToolResult no_key = Verify({"sign", model_});
  EXPECT_EQ(no_key.exit_code, 2);
  EXPECT_THAT(no_key.err, HasSubstr("sign: missing --key PRIVATE.pem\nRun 'dsv3-verify sign"));
  EXPECT_EQ(Verify({"verify-signature", model_}).exit_code, 2);
  EXPECT_EQ(Verify({"verify-signature", model_, "--key", Path("key.pub")}).exit_code, 3);
  EXPECT_EQ(Verify({"sign", model_, "--key", Path("key.pub")}).exit_code, 3);
  ASSERT_EQ(Verify({"sign", model_, "--key", Path("key.pem"), "-q"}).exit_code, 0);
  const ToolResult other = Verify({"verify-signature", model_, "--key", Path("other.pub")});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.out, AllOf(HasSubstr("made with another key"), HasSubstr("[wrong-key]"),
                               HasSubstr("the files were not compared")));
  WriteFile(fs::path(model_) / "model.sig", "{}");
  const ToolResult malformed = Verify({"verify-signature", model_, "--key", Path("key.pub")});
  EXPECT_EQ(malformed.exit_code, 3);
  EXPECT_EQ(malformed.out, "");
  EXPECT_THAT(malformed.err, HasSubstr("model.sig: the signature lacks "));
}

TEST_F(VerifyCommandTest, SignSaysWhatItTrusted) {
  ASSERT_EQ(Verify({"checksum", "create", model_, "-q"}).exit_code, 0);
  const std::vector<std::string> sign = {"sign", model_, "--key", Path("key.pem"),
                                         "--use-manifest"};
  const ToolResult made = Verify(sign);
  EXPECT_EQ(made.exit_code, 0);
  EXPECT_THAT(made.out, HasSubstr("digests taken from checkpoint.manifest.json, bytes not read"));
  ExpectForms(sign, 0, "sign-report");
  EXPECT_EQ(Verify({"verify-signature", model_, "--key", Path("key.pub")}).exit_code, 0);
}

TEST_F(VerifyCommandTest, FindingFilesAreWrittenAlsoWhenQuiet) {
  ASSERT_EQ(Verify({"checksum", "create", model_, "-q"}).exit_code, 0);
  Flip(kConfig, 3);
  const ToolResult result = Verify(
      {"checksum", "check", model_, "-q", "--junit", Path("j.xml"), "--sarif", Path("s.json")});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(ReadFile(Path("j.xml")), HasSubstr("<testcase name=\"config.json\""));
  EXPECT_THAT(ReadFile(Path("j.xml")), HasSubstr("failures=\"1\""));
  const json sarif = json::parse(ReadFile(Path("s.json")));
  EXPECT_EQ(sarif["runs"][0]["results"][0]["ruleId"], "wrong-digest");
  const ToolResult no_place =
      Verify({"checksum", "check", model_, "--junit", Path("missing/j.xml")});
  EXPECT_EQ(no_place.exit_code, 2);
  EXPECT_THAT(no_place.err, HasSubstr("--junit: there is no directory "));
}

TEST_F(VerifyCommandTest, FilesThatCannotBeWrittenAreRefusedBeforeAnythingIsRead) {
  // Nobody can make files there, root included.
  for (const char* option : {"--junit", "--sarif"}) {
    const ToolResult refused = Verify({"checksum", "check", model_, option, "/proc/findings"});
    EXPECT_EQ(refused.exit_code, 4);
    EXPECT_THAT(refused.err, HasSubstr(std::string(option) + ": cannot create /proc/findings"));
    EXPECT_THAT(refused.err, Not(HasSubstr("hashing")));
    EXPECT_EQ(refused.out, "");
    EXPECT_EQ(Verify({"structure", model_, option, Path("")}).exit_code, 2);
  }
  EXPECT_EQ(Verify({"sign", model_, "--key", Path("key.pem"), "--signature", "/proc/s"}).exit_code,
            4);
}

TEST_F(VerifyCommandTest, ChecksumsOfAReadOnlyCopyAreWrittenElsewhere) {
  const ToolResult created = Verify({"checksum", "create", model_, "--output", Path("sums")});
  EXPECT_EQ(created.exit_code, 0) << created.err;
  EXPECT_THAT(created.out, HasSubstr("checksum check --manifest " + Path("sums")));
  EXPECT_EQ(
      Verify({"checksum", "check", model_, "--manifest", Path("sums/checkpoint.manifest.json")})
          .exit_code,
      0);
  ExpectForms({"checksum", "create", model_, "--output", Path("sums")}, 0,
              "verify-checksum-create");
}

TEST_F(VerifyCommandTest, AListThatCannotBeReadIsNotReplacedAndNothingOfTheKindIsAdvised) {
  fs::remove(fs::path(model_) / "checkpoint.manifest.json");
  WriteFile(fs::path(model_) / "SHA256SUMS", "<html></html>\n");
  const ToolResult created = Verify({"checksum", "create", model_});
  EXPECT_EQ(created.exit_code, 1) << created.err;
  EXPECT_THAT(created.out,
              AllOf(HasSubstr("HTML"),
                    HasSubstr("nothing was written: the checksums that are there cannot be read"),
                    Not(HasSubstr("--overwrite"))));
  ExpectForms({"checksum", "create", model_}, 1, "verify-checksum-create");
  EXPECT_EQ(Verify({"checksum", "check", model_}).exit_code, 3);
}

TEST_F(VerifyCommandTest, ReaderThatWentAwayEndsItQuietly) {
  ToolSetting setting;
  setting.stdout_to = "nobody";
  const ToolResult result = RunTool({"dsv3-verify", "structure", model_}, setting);
  EXPECT_EQ(result.exit_code, 128 + 13);
  EXPECT_EQ(result.err, "");
}

}  // namespace
}  // namespace dsv3::testing
