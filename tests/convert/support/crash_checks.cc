#include "tests/convert/support/crash_checks.h"

#include <functional>

#include <gtest/gtest.h>

#include "tests/convert/support/conversion.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kLayout[] = "layout.json";
constexpr char kManifest[] = "checkpoint.manifest.json";
constexpr char kPackedJson[] = "packed.json";

bool IsDirectory(const std::string& name) { return name.ends_with('/'); }
// What a job keeps for its own use while it runs.
bool IsInternal(const std::string& name) {
  return name.ends_with(".partial") || name.starts_with(".dsv3-");
}

bool HasAll(const Tree& tree, const Tree& expected, const std::function<bool(std::string)>& which) {
  for (const auto& [name, content] : expected) {
    if (!which(name)) continue;
    const auto found = tree.find(name);
    if (found == tree.end() || found->second != content) return false;
  }
  return true;
}

}  // namespace

bool IsShard(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.packed");
}

Tree TreeOrNothing(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory) ? ReadTree(directory) : Tree();
}

void ExpectNothingHalfDone(const Tree& tree, const std::vector<Tree>& generations) {
  const auto complete_when_visible = [&](const std::string& name,
                                         const std::function<bool(std::string)>& others) {
    const auto found = tree.find(name);
    if (found == tree.end()) return;
    bool complete = false;
    for (const Tree& generation : generations) {
      const auto expected = generation.find(name);
      complete |= expected != generation.end() && expected->second == found->second &&
                  HasAll(tree, generation, others);
    }
    EXPECT_TRUE(complete) << name << " is visible before what it stands for";
  };
  for (const auto& [name, content] : tree) {
    if (IsDirectory(name) || IsInternal(name)) continue;
    bool known = false;
    for (const Tree& generation : generations) {
      const auto expected = generation.find(name);
      known |= expected != generation.end() && expected->second == content;
    }
    EXPECT_TRUE(known) << name << " is visible and not complete (" << content.size() << " bytes)";
  }
  complete_when_visible(kIndex, IsShard);
  complete_when_visible(kLayout, IsShard);
  complete_when_visible(kManifest, [](const std::string&) { return true; });
  complete_when_visible(kPackedJson, [](const std::string&) { return true; });
}

void ForEachCrash(const RecordingFileSystem& recorder, const std::filesystem::path& state,
                  const std::map<std::string, std::filesystem::file_time_type>& in_times,
                  std::set<Tree>& seen,
                  const std::function<void(const std::filesystem::path& state)>& visit,
                  std::size_t stride) {
  std::size_t found = 0;
  for (std::size_t count = 0; count <= recorder.operations().size(); ++count) {
    for (const Crash crash : kEveryCrash) {
      std::filesystem::remove_all(state);
      recorder.Replay(count, crash, state);
      if (!seen.insert(ReadTree(state)).second || found++ % stride != 0) continue;
      RestoreFileTimes(state / "in", in_times);
      SCOPED_TRACE(ToString(crash) + " after " +
                   (count == 0 ? "nothing" : ToString(recorder.operations()[count - 1])));
      visit(state);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

void ExpectSameTree(const Tree& tree, const Tree& expected) {
  for (const auto& [name, content] : expected) {
    const auto found = tree.find(name);
    if (found == tree.end()) {
      ADD_FAILURE() << name << " is missing";
    } else {
      EXPECT_TRUE(found->second == content) << name << " differs";
    }
  }
  for (const auto& [name, content] : tree) {
    EXPECT_EQ(expected.count(name), 1U) << name << " is left over";
  }
}

}  // namespace dsv3::testing
