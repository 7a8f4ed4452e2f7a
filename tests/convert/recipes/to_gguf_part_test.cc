#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/manifest.h"
#include "convert/job/output_lock.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/model_config.h"
#include "tests/convert/recipes/to_gguf_test.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/sanitizers.h"

// --part and --finish, by file.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using convert::ConversionReport;
using formats::Dtype;
using formats::GgufType;
using ::testing::HasSubstr;
using Outcome = ConversionReport::Outcome;

// A model of a dense layer and one with two experts, in some 100 KB.
constexpr char kConfig[] = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 64,
  "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2,
  "num_attention_heads": 2, "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1,
  "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 32,
  "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "num_nextn_predict_layers": 0,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000,
  "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
  "norm_topk_prob": true, "hidden_act": "silu", "tie_word_embeddings": false})";

// Four files.
constexpr std::uint64_t kSize = 28'000;
constexpr std::size_t kFiles = 4;

void WriteSmallModel(const fs::path& directory) {
  TinyCheckpoint checkpoint;
  checkpoint.config = kConfig;
  checkpoint.has_index = false;
  const convert::ModelConfig config = convert::ParseModelConfig(kConfig, "config.json");
  for (const convert::ExpectedTensor& tensor : convert::ExpectedTensors(config)) {
    checkpoint.Add("model.safetensors", tensor.name,
                   tensor.role == convert::TensorRole::kRouterBias ? Dtype::kF32 : Dtype::kBF16,
                   tensor.shape);
  }
  checkpoint.Write(directory);
}

class ToGgufPartTest : public ToGgufTest {
 protected:
  void SetUp() override {
    WriteSmallModel(dir_ / "in");
    fs::create_directory(dir_ / "expected");
    WholeIn(dir_ / "expected").Run();
    expected_ = ReadTree(dir_ / "expected");
    ASSERT_EQ(expected_.size(), kFiles + 1);
    fs::create_directory(dir_ / "o");
  }

  Conversion WholeIn(const fs::path& directory) const { return Into(directory, dir_ / "in"); }
  Conversion Whole() const { return WholeIn(dir_ / "o"); }
  Conversion Part(std::uint64_t index, std::uint64_t count) const {
    return PartOf(Whole(), index, count);
  }
  Conversion Finish() const { return FinishOf(Whole()); }

  static Conversion Into(const fs::path& directory, const fs::path& in,
                         GgufType type = GgufType::kBF16, std::uint64_t size = kSize) {
    return Command(in, directory / "m.gguf", type, {.max_file_bytes = size, .no_tokenizer = true});
  }
  static Conversion PartOf(Conversion command, std::uint64_t index, std::uint64_t count) {
    command.request.run.part = convert::RunOptions::Part{index, count};
    return command;
  }
  static Conversion FinishOf(Conversion command) {
    command.request.run.finish = true;
    return command;
  }

  void ExpectFinished() const { ExpectSameTree(ReadTree(dir_ / "o"), expected_); }
  fs::path Partial() const { return dir_ / "o" / "m.gguf.partial"; }
  static std::string Name(std::size_t number) {
    return fmt::format("m-{:05}-of-{:05}.gguf", number, kFiles);
  }

  std::map<std::string, std::string> expected_;
};

TEST_F(ToGgufPartTest, AllPartsAndFinishGiveWhatOneRunGives) {
  for (const std::uint64_t count : {1U, 2U, 3U, 6U}) {
    SCOPED_TRACE(std::to_string(count) + " parts");
    fs::remove_all(dir_ / "o");
    fs::create_directory(dir_ / "o");
    std::size_t files = 0;
    for (std::uint64_t index = count; index-- > 0;) {
      const ConversionReport report = Part(index, count).Run();
      EXPECT_EQ(report.outcome, Outcome::kPartDone);
      files += report.files.size();
      EXPECT_EQ(report.missing_files, kFiles - files);
      // Nothing has its name before all is complete.
      EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "o"), fs::directory_iterator()), 1);
    }
    const ConversionReport report = Finish().Run();
    EXPECT_EQ(report.outcome, Outcome::kConverted);
    EXPECT_EQ(report.kept_files, kFiles);
    ExpectFinished();
  }
}

TEST_F(ToGgufPartTest, OneFileIsTheFirstPartsAlone) {
  const Conversion one = Into(dir_ / "o", dir_ / "in", GgufType::kBF16, 0);
  Into(dir_.path(), dir_ / "in", GgufType::kBF16, 0).Run();
  EXPECT_EQ(PartOf(one, 1, 2).Run().files.size(), 0U);
  const Error error = ErrorOf([&] { FinishOf(one).Run(); });
  EXPECT_THAT(error.message(), HasSubstr("part 0/2"));
  EXPECT_EQ(PartOf(one, 0, 2).Run().files.size(), 1U);
  FinishOf(one).Run();
  EXPECT_TRUE(ReadFile(dir_ / "o" / "m.gguf") == ReadFile(dir_ / "m.gguf"));
  EXPECT_FALSE(fs::exists(Partial()));
}

TEST_F(ToGgufPartTest, APartThatFinishesTooEarlyIsKept) {
  const Error error = ErrorOf([&] { FinishOf(Part(0, 2)).Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("part 1/2"));
  EXPECT_TRUE(fs::exists(Partial() / Name(1)));
  const ConversionReport report = FinishOf(Part(1, 2)).Run();
  EXPECT_EQ(report.outcome, Outcome::kConverted);
  ExpectFinished();
}

TEST_F(ToGgufPartTest, AFinishedOutputLeavesNothingToDo) {
  for (const std::uint64_t index : {0U, 1U}) Part(index, 2).Run();
  Finish().Run();
  const std::string before = DetailedListing(dir_ / "o");
  for (const Conversion& command : {Part(0, 2), Part(1, 2), Part(2, 7), Finish(), Whole()}) {
    EXPECT_EQ(command.Run().outcome, Outcome::kNothingToDo);
  }
  EXPECT_EQ(DetailedListing(dir_ / "o"), before);
}

TEST_F(ToGgufPartTest, ARunOfTheWholeJobDoesWhatPartsLeft) {
  Part(1, 2).Run();
  const ConversionReport report = Whole().Run();
  EXPECT_TRUE(report.resumed);
  EXPECT_GT(report.kept_files, 0U);
  ExpectFinished();
}

TEST_F(ToGgufPartTest, PartsLeaveNamesToTheRunThatEndsTheJob) {
  // Ended between the names.
  fs::copy(dir_ / "expected", Partial(), fs::copy_options::recursive);
  fs::rename(Partial() / "m.gguf.manifest.json", Partial() / convert::kManifestName);
  fs::rename(Partial() / Name(1), dir_ / "o" / Name(1));
  const std::string before = DetailedListing(dir_ / "o");
  EXPECT_EQ(Part(1, 2).Run().outcome, Outcome::kNothingToDo);
  Conversion plan = Whole();
  plan.request.run.dry_run = true;
  EXPECT_EQ(plan.Run().outcome, Outcome::kNothingToDo);
  EXPECT_EQ(DetailedListing(dir_ / "o"), before);
  {
    const convert::OutputLock other(Partial());
    EXPECT_EQ(ErrorOf([&] { Finish().Run(); }).code(), ErrorCode::kUsage);
  }
  EXPECT_EQ(Finish().Run().outcome, Outcome::kNothingToDo);
  ExpectFinished();
  // A lock that a killed run left.
  fs::create_directory(Partial());
  WriteFile(Partial() / ".dsv3-lock", "");
  EXPECT_EQ(Whole().Run().outcome, Outcome::kNothingToDo);
  ExpectFinished();
}

TEST_F(ToGgufPartTest, AJobThatIsUnderWayGoesOnWithOverwriteToo) {
  Conversion command = Whole();
  command.request.run.overwrite = true;
  fs::copy(dir_ / "expected", Partial(), fs::copy_options::recursive);
  fs::rename(Partial() / "m.gguf.manifest.json", Partial() / convert::kManifestName);
  fs::rename(Partial() / Name(3), dir_ / "o" / Name(3));
  EXPECT_EQ(command.Run().outcome, Outcome::kNothingToDo);
  ExpectFinished();
  EXPECT_EQ(command.Run().outcome, Outcome::kConverted);
  ExpectFinished();
}

TEST_F(ToGgufPartTest, OtherFilesAndOtherJobsAreRefused) {
  WriteFile(dir_ / "o" / Name(4), "mine");
  for (const Conversion& command : {Part(0, 2), Finish()}) {
    const Error error = ErrorOf([&] { command.Run(); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr("name another file, or remove it"));
  }
  fs::remove(dir_ / "o" / Name(4));
  Conversion over = Part(0, 2);
  over.request.run.overwrite = true;
  EXPECT_THAT(ErrorOf([&] { over.Run(); }).message(), HasSubstr("--part does not go with"));
  over.request.run.overwrite = false;
  over.request.run.command = "dsv3-convert to-gguf --type bf16 in";
  over.Run();
  const Conversion other = PartOf(Into(dir_ / "o", dir_ / "in", GgufType::kF16), 1, 2);
  const Error error = ErrorOf([&] { other.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(),
              HasSubstr("in " + (dir_ / "o" / "m.gguf").string() + " --part I/2`"));
  EXPECT_THAT(error.message(), HasSubstr("or choose another file"));
  EXPECT_THAT(error.message(), HasSubstr("2 of 4 shards"));
  EXPECT_THAT(ErrorOf([&] { Part(1, 3).Run(); }).message(), HasSubstr("part 0/2 was begun here"));
}

// Cuts the power after every change.
class ToGgufPartCrashTest : public ToGgufPartTest {
 protected:
  void ForEachCrashOf(const std::function<std::vector<Conversion>(const fs::path& root)>& commands,
                      const std::function<void(const fs::path& state)>& recover) {
    const fs::path live = dir_ / "live";
    fs::create_directory(live);
    fs::copy(dir_ / "in", live / "in", fs::copy_options::recursive);
    fs::create_directory(live / "out");
    const auto times = FileTimes(live / "in");
    QuickFileSystem quick;
    RecordingFileSystem recorder(quick, live);
    for (const Conversion& command : commands(live)) command.Run(recorder);
    std::set<Tree> seen;
    ForEachCrash(
        recorder, dir_ / "state", times, seen,
        [&](const fs::path& state) {
          ExpectWholeFiles(ReadTree(state / "out"));
          try {
            recover(state);
          } catch (const Error& error) {
            ADD_FAILURE() << error.what();
          }
          ExpectSameTree(ReadTree(state / "out"), expected_);
        },
        Stride(5));
    EXPECT_GT(seen.size(), 20U);
  }

  // What has its name is complete, and the manifest lies beside all files.
  void ExpectWholeFiles(const Tree& tree) const {
    for (const auto& [name, content] : expected_) {
      const auto found = tree.find(name);
      if (found == tree.end()) {
        EXPECT_FALSE(name.ends_with(".gguf") && tree.contains("m.gguf.manifest.json")) << name;
      } else {
        EXPECT_TRUE(found->second == content) << name << " is not complete";
      }
    }
  }
};

TEST_F(ToGgufPartCrashTest, PartsAndFinishRecoverFromEveryPowerCut) {
  const auto commands = [](const fs::path& root) {
    const Conversion whole = Into(root / "out", root / "in");
    return std::vector<Conversion>{PartOf(whole, 1, 2), PartOf(whole, 0, 2), FinishOf(whole)};
  };
  ForEachCrashOf(commands, [](const fs::path& state) {
    const Conversion whole = Into(state / "out", state / "in");
    for (const std::uint64_t index : {0U, 1U}) PartOf(whole, index, 2).Run();
    FinishOf(whole).Run();
  });
}

TEST_F(ToGgufPartCrashTest, ARunOfTheWholeJobRecoversFromEveryPowerCut) {
  const auto commands = [](const fs::path& root) {
    return std::vector<Conversion>{Into(root / "out", root / "in")};
  };
  ForEachCrashOf(commands, [](const fs::path& state) { Into(state / "out", state / "in").Run(); });
}

}  // namespace
}  // namespace dsv3::testing
