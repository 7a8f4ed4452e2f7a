// Files that wait for their names until their sources are checked: cuts the power after every
// change, continues, and finds damage on the way.

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/job/run_plan.h"
#include "convert/plan/assemble_expression.h"
#include "formats/error.h"
#include "tests/convert/support/catalog_of.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/crash_checks.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/recording_file_system.h"
#include "tests/support/temp_dir.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using ::testing::HasSubstr;
using testing::TinyCheckpoint;
using testing::Tree;

constexpr char kShards[] = {'a', 'b', 'c'};

std::string ShardName(char shard) { return std::string(1, shard) + ".safetensors"; }

// Of each target tensor the upper half is in r0 and the lower one in r1; what r1 has of "norm"
// nothing takes.
TinyCheckpoint Ranks() {
  TinyCheckpoint checkpoint;
  for (const char* const rank : {"r0", "r1"}) {
    for (const char shard : kShards) {
      checkpoint.Add(rank, std::string(1, shard) + "." + rank, Dtype::kBF16, {70, 50});
    }
  }
  checkpoint.Add("r0", "norm", Dtype::kF32, {70});
  checkpoint.Add("r1", "norm.copy", Dtype::kF32, {70});
  return checkpoint;
}

// A run that puts the ranks in `root`/in together in `root`/out.
class CheckedRun {
 public:
  explicit CheckedRun(const fs::path& root) : output_(root / "out") {
    source_.emplace();
    source_->directory = root / "in";
    source_->catalog = testing::CatalogOf(root / "in");
    run_.threads = 2;
    const Catalog& catalog = source_->catalog;
    plan_.recipe = "checked";
    const TinyCheckpoint expected = Ranks();
    for (const testing::TinyTensor& tensor : expected.tensors) {
      plan_.source_digests[catalog.Find(tensor.name)] = testing::Xxh3Of(tensor.bytes);
    }
    for (const char shard : kShards) {
      const std::string name(1, shard);
      NamedExpressions tensors;
      tensors.emplace_back(name, Assemble(catalog, name, Dtype::kBF16, {140, 50},
                                          {{{0, 70, 0, 50}, catalog.Find(name + ".r0"), 0, 0},
                                           {{70, 140, 0, 50}, catalog.Find(name + ".r1"), 0, 0}}));
      if (shard == 'a') tensors.emplace_back("norm", Copy(catalog, catalog.Find("norm")));
      plan_.files.push_back(PlanFile(ShardName(shard), std::move(tensors)));
    }
    plan_.index = PlanIndex(plan_);
    plan_.side_files.push_back({"config.json", {}, "{}"});
    plan_.side_files.push_back({"more/README.md", {}, "read me"});
  }

  RunOptions& run() { return run_; }

  ConversionReport Run(formats::FileSystem& file_system) {
    ProgressSink progress;
    const StopToken stop;
    RecipeHooks hooks;
    hooks.preflight = [this](const PreflightRun& run) {
      to_make_ = run.to_make.size();
      return SideDigests();
    };
    return RunPlan(TensorsOf(*source_), plan_, output_, run_, hooks, {}, file_system, progress,
                   stop);
  }

  std::size_t to_make() const { return to_make_; }

 private:
  fs::path output_;
  std::optional<OpenedModel> source_;
  RunOptions run_;
  Plan plan_;
  std::size_t to_make_ = 0;
};

class CheckedCrashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Ranks().Write(temp_ / "live" / "in");
    in_times_ = testing::FileTimes(temp_ / "live" / "in");
    CopySource(temp_ / "whole");
    CheckedRun(temp_ / "whole").Run(quick_);
    expected_ = testing::ReadTree(temp_ / "whole" / "out");
  }

  void CopySource(const fs::path& root) const {
    fs::remove_all(root);
    fs::create_directories(root / "in");
    fs::copy(temp_ / "live" / "in", root / "in", fs::copy_options::recursive);
    testing::RestoreFileTimes(root / "in", in_times_);
  }

  // Turns one byte of what r1 has of a shard; again turns it back. Nobody sees it from outside.
  void Damage(const fs::path& root, const std::string& bytes) const {
    std::string content = testing::ReadFile(root / "in" / "r1");
    const std::size_t at = content.find(bytes.substr(0, bytes.size() / 2));
    ASSERT_NE(at, std::string::npos);
    content[at + bytes.size() / 2] ^= 1;
    testing::WriteFile(root / "in" / "r1", content);
    testing::RestoreFileTimes(root / "in", in_times_);
  }

  // Whether a name is one of what the job makes, and not of what it keeps for itself.
  static bool IsVisible(const std::string& name) {
    return !name.ends_with(".partial") && !name.starts_with(".dsv3-") && !name.ends_with('/');
  }

  // Nothing is visible before every weight file is complete.
  void ExpectAllOrNothing(const Tree& tree) const {
    bool visible = false;
    for (const auto& [name, content] : tree) visible |= IsVisible(name);
    if (!visible) return;
    for (const char shard : kShards) {
      const std::string name = ShardName(shard);
      const auto found = tree.count(name) != 0 ? tree.find(name) : tree.find(name + ".partial");
      ASSERT_TRUE(found != tree.end()) << name;
      EXPECT_TRUE(found->second == expected_.at(name)) << name;
    }
  }

  // Calls `visit` with each different state that a crash of a whole run can leave.
  template <typename Visit>
  void ForEachCrash(const Visit& visit) {
    testing::RecordingFileSystem recorder(quick_, temp_ / "live");
    CheckedRun(temp_ / "live").Run(recorder);
    std::set<Tree> seen;
    testing::ForEachCrash(recorder, temp_ / "state", in_times_, seen, visit);
  }

  testing::TempDir temp_{testing::MemoryDirectory()};
  testing::QuickFileSystem quick_;
  std::map<std::string, fs::file_time_type> in_times_;
  Tree expected_;
};

TEST_F(CheckedCrashTest, RecoversFromEveryPowerCutAndKeepsWhatWasFinished) {
  std::set<std::size_t> left_to_make;
  ForEachCrash([&](const fs::path& state) {
    const Tree tree = testing::TreeOrNothing(state / "out");
    testing::ExpectNothingHalfDone(tree, {expected_});
    ExpectAllOrNothing(tree);
    CheckedRun again(state);
    const ConversionReport report = again.Run(quick_);
    testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
    if (report.outcome == ConversionReport::Outcome::kNothingToDo) return;
    left_to_make.insert(again.to_make());
  });
  EXPECT_EQ(left_to_make, (std::set<std::size_t>{0, 1, 2, 3}));
}

TEST_F(CheckedCrashTest, FinishedFilesAreKeptWhereNothingWasLost) {
  testing::RecordingFileSystem recorder(quick_, temp_ / "live");
  CheckedRun(temp_ / "live").Run(recorder);
  std::size_t most_to_make = 3;
  for (std::size_t count = 0; count <= recorder.operations().size(); ++count) {
    const fs::path state = temp_ / "state";
    fs::remove_all(state);
    recorder.Replay(count, testing::Crash::kLoseUnsynced, state);
    testing::RestoreFileTimes(state / "in", in_times_);
    CheckedRun again(state);
    if (again.Run(quick_).outcome == ConversionReport::Outcome::kNothingToDo) break;
    // What a run has finished the next one never makes again.
    ASSERT_LE(again.to_make(), most_to_make) << count;
    most_to_make = again.to_make();
  }
  EXPECT_EQ(most_to_make, 0U);
}

TEST_F(CheckedCrashTest, DamageThatIsFoundAfterACrashLeavesNothing) {
  const std::string damaged = Ranks().Find("c.r1").bytes;
  std::size_t refused = 0;
  ForEachCrash([&](const fs::path& state) {
    Damage(state, damaged);
    try {
      // Where what needs it is made already, the damage does no harm.
      CheckedRun(state).Run(quick_);
      testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
      return;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kBadInput) << error.message();
      ASSERT_THAT(error.message(), HasSubstr("'c.r1'"));
      ++refused;
    }
    for (const auto& [name, content] : testing::TreeOrNothing(state / "out")) {
      ADD_FAILURE() << name << " is left";
    }
    Damage(state, damaged);
    CheckedRun(state).Run(quick_);
    testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
  });
  EXPECT_GT(refused, 10U);
}

TEST_F(CheckedCrashTest, DamageLeavesNoFileAndNoDirectoryThatWasNotThere) {
  for (const char* const name : {"a.r1", "c.r1", "norm.copy"}) {
    for (const bool exists : {false, true}) {
      CopySource(temp_ / "state");
      if (exists) fs::create_directory(temp_ / "state" / "out");
      Damage(temp_ / "state", Ranks().Find(name).bytes);
      const Error error = testing::ErrorOf([&] { CheckedRun(temp_ / "state").Run(quick_); });
      EXPECT_EQ(error.code(), ErrorCode::kBadInput);
      EXPECT_EQ(error.place().tensor, name);
      EXPECT_EQ(error.place().file, "r1");
      EXPECT_EQ(fs::exists(temp_ / "state" / "out"), exists);
      EXPECT_EQ(testing::TreeOrNothing(temp_ / "state" / "out"), Tree());
    }
  }
}

// A run ended while it gave files their names; one of them is lost since then, and its source is
// damaged: what is visible already goes again.
TEST_F(CheckedCrashTest, DamageThatIsFoundLateTakesBackWhatIsVisible) {
  testing::RecordingFileSystem recorder(quick_, temp_ / "live");
  CheckedRun(temp_ / "live").Run(recorder);
  std::size_t count = 0;
  const fs::path state = temp_ / "state";
  do {
    fs::remove_all(state);
    recorder.Replay(++count, testing::Crash::kKeepAll, state);
  } while (!fs::exists(state / "out" / ShardName('b')));
  testing::RestoreFileTimes(state / "in", in_times_);
  fs::remove(state / "out" / ShardName('b'));
  Damage(state, Ranks().Find("b.r1").bytes);
  EXPECT_EQ(testing::ErrorOf([&] { CheckedRun(state).Run(quick_); }).code(), ErrorCode::kBadInput);
  EXPECT_EQ(testing::TreeOrNothing(state / "out"), Tree());
}

TEST_F(CheckedCrashTest, AfterDamageARunWithOverwriteWorks) {
  CopySource(temp_ / "state");
  CheckedRun(temp_ / "state").Run(quick_);
  const std::string damaged = Ranks().Find("b.r1").bytes;
  Damage(temp_ / "state", damaged);
  CheckedRun replacing(temp_ / "state");
  replacing.run().overwrite = true;
  EXPECT_EQ(testing::ErrorOf([&] { replacing.Run(quick_); }).code(), ErrorCode::kBadInput);
  Damage(temp_ / "state", damaged);
  CheckedRun again(temp_ / "state");
  again.run().overwrite = true;
  again.Run(quick_);
  testing::ExpectSameTree(testing::ReadTree(temp_ / "state" / "out"), expected_);
}

TEST_F(CheckedCrashTest, ACrashWhileDamageIsClearedAwayIsRecoveredFrom) {
  const std::string damaged = Ranks().Find("c.r1").bytes;
  CopySource(temp_ / "state");
  Damage(temp_ / "state", damaged);
  testing::RecordingFileSystem recorder(quick_, temp_ / "state");
  EXPECT_EQ(testing::ErrorOf([&] { CheckedRun(temp_ / "state").Run(recorder); }).code(),
            ErrorCode::kBadInput);
  for (std::size_t count = 0; count <= recorder.operations().size(); ++count) {
    for (const testing::Crash crash : testing::kEveryCrash) {
      const fs::path state = temp_ / "again";
      fs::remove_all(state);
      recorder.Replay(count, crash, state);
      Damage(state, damaged);
      ExpectAllOrNothing(testing::TreeOrNothing(state / "out"));
      CheckedRun(state).Run(quick_);
      testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
    }
  }
}

TEST_F(CheckedCrashTest, AFinishedFileThatChangedWhileItWaitedIsMadeAgain) {
  testing::RecordingFileSystem recorder(quick_, temp_ / "live");
  CheckedRun(temp_ / "live").Run(recorder);
  // Before anything is visible, and all three are finished.
  std::size_t count = 0;
  const auto is_first_name = [](const testing::Operation& operation) {
    return operation.kind == testing::Operation::Kind::kRename &&
           operation.to.find(".dsv3-") == std::string::npos;
  };
  while (!is_first_name(recorder.operations().at(count))) ++count;
  const fs::path state = temp_ / "state";
  recorder.Replay(count, testing::Crash::kLoseUnsynced, state);
  testing::RestoreFileTimes(state / "in", in_times_);
  std::string content = testing::ReadFile(state / "out" / "b.safetensors.partial");
  content.back() ^= 1;
  testing::WriteFile(state / "out" / "b.safetensors.partial", content);
  fs::remove(state / "out" / "config.json.partial");
  CheckedRun again(state);
  again.Run(quick_);
  EXPECT_EQ(again.to_make(), 1U);
  testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
}

TEST_F(CheckedCrashTest, RecoversFromEveryFailingChange) {
  for (std::size_t fail_at = 0;; ++fail_at) {
    const fs::path state = temp_ / "state";
    CopySource(state);
    testing::FaultyFileSystem faulty(quick_, fail_at, EIO);
    try {
      CheckedRun(state).Run(faulty);
      break;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
    }
    ExpectAllOrNothing(testing::TreeOrNothing(state / "out"));
    CheckedRun(state).Run(quick_);
    testing::ExpectSameTree(testing::ReadTree(state / "out"), expected_);
    ASSERT_LT(fail_at, 500U);
  }
}

}  // namespace
}  // namespace dsv3::convert
