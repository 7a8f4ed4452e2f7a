#include <filesystem>
#include <string>

#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

// Where an output must not go.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

class OutputPlaceTest : public BadInputTest {
 protected:
  OutputPlaceTest() { WriteInput(); }

  void ExpectOutputRefused(const fs::path& output, const std::string& words) {
    SCOPED_TRACE(output);
    request_.output = output;
    ExpectUsageError(output.string(), words);
  }
};

TEST_F(OutputPlaceTest, RefusesTheInputHoweverItIsWritten) {
  const std::string problem = "is the input directory";
  fs::create_directory(dir_ / "other");
  fs::create_symlink(in(), dir_ / "link");
  fs::create_symlink("..", dir_ / "other/up");
  ExpectOutputRefused(in(), problem);
  ExpectOutputRefused(in() / "", problem);
  ExpectOutputRefused(in() / ".", problem);
  ExpectOutputRefused(dir_ / "other/../in", problem);
  ExpectOutputRefused(dir_ / "missing/../in", problem);
  ExpectOutputRefused(dir_ / "link", problem);
  ExpectOutputRefused(dir_ / "other/up/in", problem);
  ExpectOutputRefused(fs::relative(in()), problem);
}

TEST_F(OutputPlaceTest, RefusesTheInputsDirectoryForALoneFile) {
  request_.input = in() / "lone.safetensors";
  WriteFile(request_.input, checkpoint_.ShardBytes(kTinyShard3));
  ExpectOutputRefused(in(), "is the input directory");
}

TEST_F(OutputPlaceTest, RefusesAPlaceInsideTheInput) {
  const std::string problem = "lies inside the input directory";
  fs::create_symlink(in() / "code", dir_ / "link");
  ExpectOutputRefused(in() / "bf16", problem);
  ExpectOutputRefused(in() / "bf16/", problem);
  ExpectOutputRefused(in() / "new/deep/bf16", problem);
  ExpectOutputRefused(in() / "code", problem);
  ExpectOutputRefused(dir_ / "link/bf16", problem);
  ExpectOutputRefused(dir_ / "out/../in/bf16", problem);
  ExpectOutputRefused(fs::relative(in()) / "bf16", problem);
}

TEST_F(OutputPlaceTest, RefusesAPlaceInsideTheInputThatIsALink) {
  fs::create_symlink(in(), dir_ / "link");
  request_.input = dir_ / "link";
  ExpectOutputRefused(in() / "bf16", "lies inside the input directory");
  ExpectOutputRefused(dir_ / "link/bf16", "lies inside the input directory");
}

TEST_F(OutputPlaceTest, RefusesAPlaceThatHoldsTheInput) {
  const std::string problem = "lies inside the output directory";
  fs::create_symlink(dir_.path(), dir_ / "link");
  ExpectOutputRefused(dir_.path(), problem);
  ExpectOutputRefused(dir_ / "link", problem);
  ExpectOutputRefused(dir_.path() / "", problem);
  ExpectOutputRefused("/", problem);
}

TEST_F(OutputPlaceTest, TakesANameThatBeginsLikeTheInputs) {
  request_.output = dir_ / "in.bf16";
  Convert();
  EXPECT_TRUE(fs::exists(dir_ / "in.bf16/config.json"));
}

TEST_F(OutputPlaceTest, RefusesAPlaceInsideAHubCache) {
  const fs::path cache = dir_ / "models--org--name";
  checkpoint_.Write(cache / "snapshots/0123");
  request_.input = cache;
  ExpectOutputRefused(cache / "bf16", "lies inside the input directory");
  ExpectOutputRefused(cache / "snapshots/bf16", "lies inside the input directory");
}

TEST_F(OutputPlaceTest, RefusesAFile) {
  WriteFile(out(), "precious");
  ExpectOutputRefused(out(), "is not a directory");
  EXPECT_EQ(ReadFile(out()), "precious");
}

TEST_F(OutputPlaceTest, RefusesAPlaceBelowAFile) {
  WriteFile(dir_ / "file", "precious");
  ExpectOutputRefused(dir_ / "file/out", "file is not a directory");
  ExpectOutputRefused(dir_ / "file/deep/out", "file is not a directory");
}

TEST_F(OutputPlaceTest, RefusesAPlaceBelowAFileInADryRunToo) {
  request_.run.dry_run = true;
  WriteFile(dir_ / "file", "precious");
  ExpectOutputRefused(dir_ / "file/out", "file is not a directory");
}

TEST_F(OutputPlaceTest, RefusesALoopOfLinks) {
  fs::create_symlink("loop", dir_ / "loop");
  ExpectOutputRefused(dir_ / "loop", "symbolic links");
  ExpectOutputRefused(dir_ / "loop/out", "symbolic links");
}

TEST_F(OutputPlaceTest, RefusesALinkToNothing) {
  fs::create_symlink("nothing", out());
  ExpectOutputRefused(out(), "symlink to nothing");
}

TEST_F(OutputPlaceTest, RefusesANameThatNoFileSystemTakes) {
  ExpectOutputRefused(dir_ / std::string(300, 'x'), "name too long");
  ExpectOutputRefused(dir_ / std::string(300, 'x') / "out", "name too long");
}

TEST_F(OutputPlaceTest, RefusesADirectoryThatIsNotEmpty) {
  WriteFile(out() / "notes.txt", "precious");
  ExpectOutputRefused(out(), "is not empty; choose another directory");
  EXPECT_EQ(ReadFile(out() / "notes.txt"), "precious");
}

TEST_F(OutputPlaceTest, RefusesADirectoryWithAHiddenFile) {
  WriteFile(out() / ".hidden", "");
  ExpectOutputRefused(out(), "is not empty");
}

TEST_F(OutputPlaceTest, ReplacesForeignFilesOnlyWithOverwrite) {
  for (const std::string name :
       {"config.json", "model.safetensors.index.json", "checkpoint.manifest.json",
        "model-00001-of-00004.safetensors", "tokenizer.json"}) {
    fs::remove_all(out());
    WriteFile(out() / name, "precious");
    request_.run.overwrite = false;
    ExpectOutputRefused(out(), name);
    EXPECT_EQ(ReadFile(out() / name), "precious");
    request_.run.overwrite = true;
    Convert();
    EXPECT_NE(ReadFile(out() / name), "precious");
  }
}

TEST_F(OutputPlaceTest, KeepsForeignFilesThatAreNotInTheWayWithOverwrite) {
  request_.run.overwrite = true;
  WriteFile(out() / "notes.txt", "precious");
  Convert();
  EXPECT_EQ(ReadFile(out() / "notes.txt"), "precious");
}

TEST_F(OutputPlaceTest, TakesAnEmptyDirectoryAndTheRootOfAFileSystem) {
  fs::create_directories(out() / "lost+found");
  Convert();
  EXPECT_TRUE(fs::exists(out() / "config.json"));
}

TEST_F(OutputPlaceTest, MakesTheDirectoriesOnTheWay) {
  request_.output = dir_ / "a/b/c/";
  Convert();
  EXPECT_TRUE(fs::exists(dir_ / "a/b/c/config.json"));
}

// Bad scales are found after the directory was made.
TEST_F(OutputPlaceTest, RemovesTheDirectoriesThatItMadeForNothing) {
  in_structure_ = InStructure::kNotTouched;
  checkpoint_.Find("a.weight_scale_inv").bytes.replace(0, 4, 4, '\0');
  WriteInput();
  request_.output = dir_ / "a/b/c";
  ExpectBadInput("'a.weight_scale_inv' is 0 at [0, 0]");
  fs::create_directory(dir_ / "a");
  ExpectBadInput("'a.weight_scale_inv' is 0 at [0, 0]");
}

TEST_F(OutputPlaceTest, RefusesTooLittleMemory) {
  request_.run.memory_bytes = (std::uint64_t{8} << 20) - 1;
  ExpectUsageError("--memory 8388607", "8Mi");
}

TEST_F(OutputPlaceTest, MakesNothingInADryRun) {
  request_.run.dry_run = true;
  const auto before = Snapshot(dir_.path());
  EXPECT_EQ(Convert().outcome, convert::ConversionReport::Outcome::kPlanned);
  EXPECT_EQ(Snapshot(dir_.path()), before);
}

}  // namespace
}  // namespace dsv3::testing
