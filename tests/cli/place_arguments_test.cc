#include "cli/place_arguments.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/error.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class PlaceArgumentsTest : public ::testing::Test {
 protected:
  void SetUp() override { setenv("HF_HUB_CACHE", (dir_ / "hub").c_str(), 1); }
  void TearDown() override { unsetenv("HF_HUB_CACHE"); }

  static Error Refusal(const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      return error;
    }
    return Error(ErrorCode::kInternal, "no error");
  }

  testing::TempDir dir_;
};

TEST_F(PlaceArgumentsTest, RefusesAddresses) {
  for (const std::string address :
       {"s3://bucket/model", "gs://b/m", "hf://org/name", "https://huggingface.co/org/name",
        "me@host:/models/v3", "host:v3", "s3:/bucket/v3"}) {
    SCOPED_TRACE(address);
    EXPECT_EQ(Refusal([&] { InputPath("IN", address); }).code(), ErrorCode::kUsage);
    const Error out = Refusal([&] { OutputDirectory("OUT", address); });
    EXPECT_EQ(out.code(), ErrorCode::kUsage);
    EXPECT_THAT(out.message(), AllOf(HasSubstr("OUT: " + address), HasSubstr("local directory")));
  }
}

TEST_F(PlaceArgumentsTest, NamesTheDownloadOfARepositoryThatTheCacheLacks) {
  for (const std::string name : {"org/name", "hf://org/name", "https://huggingface.co/org/name",
                                 "https://huggingface.co/org/name/tree/main"}) {
    SCOPED_TRACE(name);
    const Error error = Refusal([&] { InputPath("IN", name); });
    EXPECT_THAT(error.message(), HasSubstr("`hf download org/name`"));
  }
  EXPECT_EQ(Refusal([&] { InputPath("IN", "org/name"); }).code(), ErrorCode::kBadInput);
  EXPECT_THAT(Refusal([&] { InputPath("IN", "hf://models/org/name"); }).message(),
              HasSubstr("`hf download org/name`"));
  EXPECT_THAT(Refusal([&] { InputPath("IN", "hf://org/name@refs/pr/1/config.json"); }).message(),
              HasSubstr("`hf download org/name --revision refs/pr/1`"));
  EXPECT_THAT(Refusal([&] { InputPath("IN", "hf://org/name@refs/pr/12"); }).message(),
              HasSubstr("`hf download org/name --revision refs/pr/12`"));
}

TEST_F(PlaceArgumentsTest, SaysWhatToGiveInPlaceOfAddressesThatItKnows) {
  const auto of_input = [](const std::string& value) {
    return Refusal([&] { InputPath("IN", value); }).message();
  };
  const auto of_output = [](const std::string& value) {
    return Refusal([&] { OutputDirectory("OUT", value); }).message();
  };
  EXPECT_THAT(of_input("file:///data/v3"), EndsWith("not a path; give /data/v3"));
  EXPECT_THAT(of_output("file://localhost/data/v3"), EndsWith("not a path; give /data/v3"));
  for (const std::string windows : {"D:\\models\\v3", "D:/models/v3"}) {
    EXPECT_THAT(of_input(windows), EndsWith("has that drive under /mnt/d"));
    EXPECT_THAT(of_output(windows), EndsWith("has that drive under /mnt/d"));
  }
  for (const std::string model :
       {"ms://org/name", "modelscope://org/name", "https://modelscope.cn/models/org/name/files"}) {
    EXPECT_THAT(of_input(model),
                HasSubstr("`modelscope download --model org/name --local_dir DIR`"));
  }
}

TEST_F(PlaceArgumentsTest, RefusesWhatAShellWouldHaveReplaced) {
  for (const std::string home : {"~", "~/models/v3"}) {
    SCOPED_TRACE(home);
    for (const PathUse use : {PathUse::kCheckpoint, PathUse::kOutputDirectory, PathUse::kInputFile,
                              PathUse::kOutputFile}) {
      const Error error = Refusal([&] { PlacedPath(use, "PATH", home); });
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_THAT(error.message(), HasSubstr("write $HOME in its place"));
    }
  }
  EXPECT_THAT(Refusal([&] { InputPath("IN", "-"); }).message(), HasSubstr("names no directory"));
  EXPECT_EQ(Refusal([&] { OutputDirectory("OUT", "-"); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(InputPath("IN", "~other"), "~other");
  EXPECT_EQ(OutputDirectory("OUT", "./~/v3"), "./~/v3");
}

TEST_F(PlaceArgumentsTest, TakesARepositoryFromTheCache) {
  const fs::path cached = dir_ / "hub" / "models--org--name";
  fs::create_directories(cached);
  for (const std::string name : {"org/name", "hf://org/name", "https://hf.co/org/name"}) {
    EXPECT_EQ(InputPath("IN", name), cached.string()) << name;
  }
}

TEST_F(PlaceArgumentsTest, TakesTheRevisionThatIsNamed) {
  const fs::path cached = dir_ / "hub" / "models--org--name";
  fs::create_directories(cached / "snapshots" / "aa11");
  fs::create_directories(cached / "refs" / "refs" / "pr");
  testing::WriteFile(cached / "refs" / "v1.0", "aa11");
  testing::WriteFile(cached / "refs" / "refs" / "pr" / "1", "aa11");
  for (const std::string name :
       {"org/name@aa11", "hf://org/name@v1.0", "hf://org/name@v1.0/config.json",
        "https://huggingface.co/org/name/tree/v1.0", "huggingface.co/org/name/tree/v1.0",
        "https://huggingface.co/org/name/blob/aa11/config.json",
        "https://huggingface.co/org/name/tree/refs%2Fpr%2F1"}) {
    EXPECT_EQ(InputPath("IN", name), (cached / "snapshots" / "aa11").string()) << name;
  }
  for (const std::string name :
       {"org/name@v2", "hf://org/name@v2", "https://huggingface.co/org/name/tree/v2"}) {
    EXPECT_THAT(Refusal([&] { InputPath("IN", name); }).message(),
                HasSubstr("`hf download org/name --revision v2`"))
        << name;
  }
  EXPECT_THAT(Refusal([&] { InputPath("IN", "hf://datasets/org/name"); }).message(),
              ::testing::Not(HasSubstr("hf download")));
}

TEST_F(PlaceArgumentsTest, TakesPathsAsTheyAre) {
  const std::string there = (dir_ / "s3:").string();
  fs::create_directories(there);
  for (const std::string& path :
       {there, std::string("missing"), std::string("./a/b"), std::string("/a/b/c"),
        std::string("./a:b"), std::string("a/b:c"), dir_.path().string() + "/missing"}) {
    EXPECT_EQ(InputPath("IN", path), path);
    EXPECT_EQ(OutputDirectory("OUT", path), path);
  }
}

TEST_F(PlaceArgumentsTest, RefusesAnOutputThatLooksLikeAFile) {
  for (const std::string name : {"model.safetensors", "a/model.gguf", "model.bin",
                                 "model.SafeTensors", "v3.tar.gz", "notes.txt"}) {
    const Error error = Refusal([&] { OutputDirectory("OUT", name); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.message(), HasSubstr("name of a file"));
  }
  const std::string there = (dir_ / "out.bin").string();
  fs::create_directories(there);
  EXPECT_EQ(OutputDirectory("OUT", there), there);
  EXPECT_EQ(OutputDirectory("OUT", "DeepSeek-V3.1"), "DeepSeek-V3.1");
}

}  // namespace
}  // namespace dsv3::cli
