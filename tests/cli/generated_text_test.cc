#include <cstdlib>
#include <filesystem>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cli/run_tool.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

// What the tools generate from their option tables: help, version, man pages, completions.
namespace dsv3::testing {
namespace {

const std::vector<std::string> kTools = {"dsv3-convert", "dsv3-inspect", "dsv3-reshard",
                                         "dsv3-verify"};

bool HasProgram(const std::string& name) {
  return std::filesystem::exists("/bin/" + name) || std::filesystem::exists("/usr/bin/" + name);
}

// DSV3_UPDATE_GOLDEN=1 in the environment writes the files anew, to be looked at in the diff.
void ExpectGolden(const std::string& text, const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(DSV3_SOURCE_DIR) / "tests/cli/golden" / name;
  if (std::getenv("DSV3_UPDATE_GOLDEN") != nullptr) WriteFile(path, text);
  ASSERT_TRUE(std::filesystem::exists(path)) << path;
  EXPECT_EQ(text, ReadFile(path)) << name;
}

TEST(HelpTest, IsWhatTheGoldenFilesSay) {
  const std::vector<std::vector<std::string>> calls = {{"dsv3-convert"},
                                                       {"dsv3-convert", "fp8-to-bf16"},
                                                       {"dsv3-convert", "bf16-to-fp8"},
                                                       {"dsv3-convert", "dequantize"},
                                                       {"dsv3-convert", "quantize"},
                                                       {"dsv3-convert", "repack"},
                                                       {"dsv3-convert", "train-to-infer"},
                                                       {"dsv3-convert", "layout"},
                                                       {"dsv3-convert", "to-gguf"},
                                                       {"dsv3-convert", "pack"},
                                                       {"dsv3-convert", "unpack"},
                                                       {"dsv3-convert", "sample"},
                                                       {"dsv3-inspect"},
                                                       {"dsv3-verify"},
                                                       {"dsv3-verify", "all"},
                                                       {"dsv3-verify", "checksum", "create"},
                                                       {"dsv3-verify", "checksum", "check"},
                                                       {"dsv3-verify", "structure"},
                                                       {"dsv3-verify", "numeric"},
                                                       {"dsv3-verify", "compare"},
                                                       {"dsv3-verify", "forward"},
                                                       {"dsv3-verify", "provenance"},
                                                       {"dsv3-verify", "sign"},
                                                       {"dsv3-verify", "verify-signature"},
                                                       {"dsv3-reshard"},
                                                       {"dsv3-reshard", "merge"}};
  for (std::vector<std::string> words : calls) {
    std::string name = words[0];
    for (std::size_t i = 1; i < words.size(); ++i) name += "-" + words[i];
    name += ".help.txt";
    words.push_back("--help");
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    ExpectGolden(result.out, name);
  }
}

TEST(HelpTest, ComesBeforeMissingArgumentsAndIsTheSameFromBothSides) {
  const ToolResult after = RunTool({"dsv3-convert", "sample", "--help"});
  const ToolResult before = RunTool({"dsv3-convert", "-h", "sample"});
  EXPECT_EQ(before.exit_code, 0);
  EXPECT_EQ(before.out, after.out);
}

TEST(HelpTest, IsACommandWordToo) {
  const auto same = [](std::vector<std::string> words, std::vector<std::string> option) {
    const ToolResult result = RunTool(words);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_EQ(result.out, RunTool(option).out);
  };
  for (const std::string& tool : kTools) same({tool, "help"}, {tool, "--help"});
  same({"dsv3-convert", "help", "sample"}, {"dsv3-convert", "sample", "--help"});
  same({"dsv3-verify", "help", "checksum", "check"},
       {"dsv3-verify", "checksum", "check", "--help"});
  same({"dsv3-verify", "help", "checksum"}, {"dsv3-verify", "--help"});
  same({"dsv3-reshard", "help", "merge"}, {"dsv3-reshard", "merge", "--help"});
  EXPECT_EQ(RunTool({"dsv3-convert", "help", "nothing"}).exit_code, 2);
  // A file of that name is written as a path.
  EXPECT_EQ(RunTool({"dsv3-inspect", "./help"}).exit_code, 3);
}

TEST(VersionTest, HasTheLettersOfOtherPrograms) {
  for (const std::string& tool : kTools) {
    const std::string version = RunTool({tool, "--version"}).out;
    EXPECT_EQ(RunTool({tool, "-V"}).out, version);
    EXPECT_EQ(RunTool({tool, "-v"}).out, version);
  }
}

TEST(VersionTest, FirstLineIsStable) {
  for (const std::string& tool : kTools) {
    const ToolResult result = RunTool({tool, "--version"});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_TRUE(std::regex_match(
        result.out,
        std::regex(
            tool +
            R"( 0\.1\.0\nkernels [A-Z0-9_]+; oneTBB [0-9.]+; OpenSSL [^;]+; MPI (no|yes \(Open MPI [0-9.]+\))\n)")))
        << result.out;
  }
}

TEST(ManPageTest, HasNoLint) {
  if (!HasProgram("mandoc")) GTEST_SKIP() << "mandoc is not installed";
  const TempDir dir;
  for (const std::string& tool : kTools) {
    const ToolResult page = RunTool({tool, "--man"});
    EXPECT_EQ(page.exit_code, 0);
    WriteFile(dir / "page.1", page.out);
    const ToolResult lint =
        RunTool({"/usr/bin/mandoc", "-T", "lint", "-W", "warning", (dir / "page.1").string()});
    EXPECT_EQ(lint.exit_code, 0) << tool << "\n" << lint.out << lint.err;
    EXPECT_EQ(lint.out, "") << tool;
  }
}

TEST(ManPageTest, NamesEveryOptionOfTheHelp) {
  const std::string page = RunTool({"dsv3-convert", "--man"}).out;
  const std::string help = RunTool({"dsv3-convert", "fp8-to-bf16", "--help"}).out +
                           RunTool({"dsv3-convert", "sample", "--help"}).out;
  const std::regex option(R"(\n  (?:-.|  )[, ] --([a-z0-9-]+))");
  int found = 0;
  for (std::sregex_iterator it(help.begin(), help.end(), option), end; it != end; ++it) {
    const std::string name = std::regex_replace((*it)[1].str(), std::regex("-"), "\\-");
    EXPECT_NE(page.find("Fl \\-" + name), std::string::npos) << name;
    ++found;
  }
  EXPECT_GT(found, 20);
}

// What bash would offer for these words, the last one being completed.
std::string BashCompletes(const std::string& tool, const std::vector<std::string>& words,
                          const std::string& directory) {
  std::string script = "source <(" DSV3_BIN_DIR "/" + tool + " --completion bash)\n";
  script += "COMP_WORDS=('" + tool + "'";
  for (const std::string& word : words) script += " '" + word + "'";
  script += ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n";
  // The function that bash itself would call.
  script += "function=$(complete -p " + tool + " | sed 's/.*-F //; s/ .*//')\n";
  script += "$function\nprintf '%s ' \"${COMPREPLY[@]}\"\n";
  ToolSetting setting;
  setting.directory = directory;
  const ToolResult result = RunTool({"/bin/bash", "--norc", "-c", script}, setting);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  return result.out;
}

TEST(CompletionTest, BashCompletesCommandsOptionsValuesAndPaths) {
  const TempDir dir;
  WriteFile(dir / "checkpoint/config.json", "{}");
  const auto complete = [&](const std::vector<std::string>& words) {
    return BashCompletes("dsv3-convert", words, dir.path().string());
  };
  EXPECT_EQ(complete({""}),
            "fp8-to-bf16 bf16-to-fp8 dequantize quantize repack train-to-infer layout to-gguf pack "
            "unpack sample ");
  EXPECT_EQ(complete({"sa"}), "sample ");
  EXPECT_EQ(complete({"fp8-to-bf16", "--th"}), "--threads ");
  EXPECT_EQ(complete({"sample", "--th"}), " ") << "an option of another command";
  EXPECT_EQ(complete({"sample", "--preset", ""}),
            "tiny tiny-v32 tiny-kimi tiny-tp tiny-61 small v3-shapes v2-lite moonlight v32 glm5 "
            "k2-int4 k2.5 awq nvfp4 v4 ");
  EXPECT_EQ(complete({"sample", "--preset", "=", "v3-"}), "v3-shapes ");
  EXPECT_EQ(complete({"sample", "--preset", "="}),
            "tiny tiny-v32 tiny-kimi tiny-tp tiny-61 small v3-shapes v2-lite moonlight v32 glm5 "
            "k2-int4 k2.5 awq nvfp4 v4 ");
  EXPECT_EQ(complete({"fp8-to-bf16", "--threads", ""}), " ");
  EXPECT_EQ(complete({"--color", "always", "sa"}), "sample ");
  EXPECT_EQ(complete({"--color", "=", "always", "sample", "--se"}), "--seed ");
  EXPECT_EQ(complete({"fp8-to-bf16", "check"}), "checkpoint ");
  EXPECT_EQ(complete({"fp8-to-bf16", "checkpoint/"}), "checkpoint/config.json ");
  EXPECT_EQ(BashCompletes("dsv3-inspect", {"check"}, dir.path().string()), "checkpoint ");
  EXPECT_EQ(BashCompletes("dsv3-inspect", {"--ten"}, dir.path().string()), "--tensor ");
  EXPECT_EQ(BashCompletes("dsv3-reshard", {"--ver"}, dir.path().string()), "--version ");
}

TEST(CompletionTest, BashCompletesCommandsOfTwoWords) {
  const TempDir dir;
  WriteFile(dir / "checkpoint/config.json", "{}");
  const auto complete = [&](const std::vector<std::string>& words) {
    return BashCompletes("dsv3-verify", words, dir.path().string());
  };
  EXPECT_EQ(complete({""}),
            "all checksum structure numeric compare forward provenance sign verify-signature ");
  EXPECT_EQ(complete({"ch"}), "checksum ");
  EXPECT_EQ(complete({"checksum", ""}), "create check ");
  EXPECT_EQ(complete({"--color", "never", "checksum", "--json", "cr"}), "create ");
  EXPECT_EQ(complete({"checksum", "check", "--qui"}), "--quiet --quick ");
  EXPECT_EQ(complete({"checksum", "create", "--qui"}), "--quiet ");
  EXPECT_EQ(complete({"checksum", "check", "check"}), "checkpoint ");
  EXPECT_EQ(complete({"structure", "--str"}), "--strict ");
}

TEST(CompletionTest, BashCompletesACommandBesidePaths) {
  const TempDir dir;
  WriteFile(dir / "checkpoint/config.json", "{}");
  WriteFile(dir / "merged/config.json", "{}");
  const auto complete = [&](const std::vector<std::string>& words) {
    return BashCompletes("dsv3-reshard", words, dir.path().string());
  };
  EXPECT_EQ(complete({"me"}), "merge merged ");
  EXPECT_EQ(complete({"che"}), "checkpoint ");
  EXPECT_EQ(complete({"--tp", "2", "me"}), "merge merged ");
  EXPECT_EQ(complete({"checkpoint", "me"}), "merged ") << "the second argument is no command";
  EXPECT_EQ(complete({"merge", "me"}), "merged ");
  EXPECT_EQ(complete({"checkpoint", "--max"}), "--max-shard-size ");
  EXPECT_EQ(complete({"merge", "--max"}), " ");
  EXPECT_EQ(complete({"--format", "d"}), "deepseek ");
  EXPECT_EQ(complete({"--ep-placement", "co"}), "contiguous ");
  EXPECT_EQ(complete({"--ep-placement", "che"}), "checkpoint ");
  EXPECT_EQ(complete({"--expert-load", "che"}), "checkpoint ");
}

TEST(CompletionTest, FishCompletesACommandBesidePaths) {
  if (!HasProgram("fish")) GTEST_SKIP() << "fish is not installed";
  const TempDir home;
  WriteFile(home / "merged/config.json", "{}");
  const auto complete = [&](const std::string& line) {
    ToolSetting setting;
    setting.environment["HOME"] = home.path().string();
    setting.directory = home.path().string();
    return RunTool({"/usr/bin/fish", "--no-config", "-c",
                    DSV3_BIN_DIR "/dsv3-reshard --completion fish | source; complete -C '" + line +
                        "' | string replace -r '\\t.*' ''"},
                   setting)
        .out;
  };
  EXPECT_EQ(complete("dsv3-reshard me"), "merge\nmerged/\n");
  EXPECT_EQ(complete("dsv3-reshard merge me"), "merged/\n");
  EXPECT_EQ(complete("dsv3-reshard in --max"), "--max-shard-size\n");
  EXPECT_EQ(complete("dsv3-reshard merge --max"), "");
  EXPECT_EQ(complete("dsv3-reshard --mtp "), "drop\nkeep\n");
}

TEST(CompletionTest, FishCompletesCommandsOptionsAndValues) {
  if (!HasProgram("fish")) GTEST_SKIP() << "fish is not installed";
  const TempDir home;
  const auto complete = [&](const std::string& line) {
    ToolSetting setting;
    setting.environment["HOME"] = home.path().string();
    const ToolResult result =
        RunTool({"/usr/bin/fish", "--no-config", "-c",
                 DSV3_BIN_DIR "/dsv3-convert --completion fish | source; complete -C '" + line +
                     "' | string replace -r '\\t.*' ''"},
                setting);
    EXPECT_EQ(result.err, "");
    return result.out;
  };
  EXPECT_EQ(complete("dsv3-convert "),
            "bf16-to-fp8\ndequantize\nfp8-to-bf16\nlayout\npack\nquantize\nrepack\nsample\nto-"
            "gguf\ntrain-to-infer\nunpack\n");
  EXPECT_EQ(complete("dsv3-convert sample --preset "),
            "awq\nglm5\nk2.5\nk2-int4\nmoonlight\nnvfp4\nsmall\ntiny\ntiny-61\ntiny-kimi\n"
            "tiny-tp\ntiny-v32\nv2-lite\nv3-shapes\nv4\nv32\n");
  EXPECT_EQ(complete("dsv3-convert fp8-to-bf16 --over"), "--overwrite\n");
  EXPECT_EQ(complete("dsv3-convert help p"), "pack\n");
}

TEST(CompletionTest, FishCompletesCommandsOfTwoWords) {
  if (!HasProgram("fish")) GTEST_SKIP() << "fish is not installed";
  const TempDir home;
  const auto complete = [&](const std::string& line) {
    ToolSetting setting;
    setting.environment["HOME"] = home.path().string();
    return RunTool({"/usr/bin/fish", "--no-config", "-c",
                    DSV3_BIN_DIR "/dsv3-verify --completion fish | source; complete -C '" + line +
                        "' | string replace -r '\\t.*' ''"},
                   setting)
        .out;
  };
  EXPECT_EQ(complete("dsv3-verify ch"), "checksum\n");
  EXPECT_EQ(complete("dsv3-verify checksum c"), "check\ncreate\n");
  EXPECT_EQ(complete("dsv3-verify help checksum c"), "check\ncreate\n");
  EXPECT_EQ(complete("dsv3-verify checksum check --quic"), "--quick\n");
  EXPECT_EQ(complete("dsv3-verify checksum create --quic"), "");
}

TEST(CompletionTest, ShellsAcceptTheScripts) {
  const TempDir dir;
  for (const std::string& tool : kTools) {
    for (const std::string shell : {"bash", "zsh", "fish"}) {
      const ToolResult script = RunTool({tool, "--completion", shell});
      EXPECT_EQ(script.exit_code, 0);
      if (!HasProgram(shell)) continue;
      WriteFile(dir / "script", script.out);
      ToolSetting setting;
      setting.environment["HOME"] = dir.path().string();
      const ToolResult check = RunTool(
          {shell == "bash" ? "/bin/bash" : "/usr/bin/" + shell, "-n", (dir / "script").string()},
          setting);
      EXPECT_EQ(check.exit_code, 0) << tool << " " << shell << check.err;
      EXPECT_EQ(check.err, "") << tool << " " << shell;
    }
  }
}

TEST(CompletionTest, ZshDefinesTheFunctionForTheTool) {
  if (!HasProgram("zsh")) GTEST_SKIP() << "zsh is not installed";
  const TempDir home;
  ToolSetting setting;
  setting.environment["HOME"] = home.path().string();
  const ToolResult result =
      RunTool({"/usr/bin/zsh", "-f", "-c",
               "autoload -Uz compinit; compinit -u -D; source <(" DSV3_BIN_DIR
               "/dsv3-convert --completion zsh); print -r -- $_comps[dsv3-convert]"},
              setting);
  EXPECT_EQ(result.out, "_dsv3_convert\n");
  EXPECT_EQ(result.err, "");
}

}  // namespace
}  // namespace dsv3::testing
