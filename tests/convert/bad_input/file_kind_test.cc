#include <filesystem>
#include <string>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/support/files.h"

// Directories, FIFOs, sockets, devices and links where a regular file should be. None of them may
// block the program.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndex = "model.safetensors.index.json";

class FileKindTest : public BadInputTest {
 protected:
  // Removes in() / name, so that something else can take its place.
  fs::path Replace(const std::string& name) {
    fs::remove(in() / name);
    return in() / name;
  }
};

TEST_F(FileKindTest, RefusesADirectoryAsAShard) {
  WriteInput();
  fs::create_directory(Replace(kTinyShard2));
  ExpectBadInput(kTinyShard2, "expected a regular file, found a directory");
}

TEST_F(FileKindTest, RefusesAFifoAsAShard) {
  WriteInput();
  ASSERT_EQ(::mkfifo(Replace(kTinyShard2).c_str(), 0600), 0);
  ExpectBadInput(kTinyShard2, "expected a regular file, found a FIFO");
}

TEST_F(FileKindTest, RefusesALinkToADeviceAsAShard) {
  WriteInput();
  fs::create_symlink("/dev/zero", Replace(kTinyShard2));
  ExpectBadInput(kTinyShard2, "expected a regular file, found a character device");
}

TEST_F(FileKindTest, RefusesASocketAsAShard) {
  WriteInput();
  const fs::path path = Replace(kTinyShard2);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.string().size() >= sizeof(address.sun_path)) GTEST_SKIP() << "the path is too long";
  path.string().copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ExpectBadInput(kTinyShard2, "expected a regular file, found a socket");
  ::close(fd);
}

TEST_F(FileKindTest, RefusesALoopOfLinksAsAShard) {
  WriteInput();
  const fs::path path = Replace(kTinyShard2);
  fs::create_symlink("loop", path);
  fs::create_symlink(kTinyShard2, in() / "loop");
  ExpectBadInput(kTinyShard2, "circle", "download");
}

TEST_F(FileKindTest, RefusesALinkToNothingAsAShard) {
  WriteInput();
  fs::create_symlink("../blobs/0123", Replace(kTinyShard2));
  ExpectBadInput(kTinyShard2, "../blobs/0123", "does not exist", "download");
}

// The hub cache has its shards that way.
TEST_F(FileKindTest, FollowsALinkToAShardAnywhere) {
  WriteInput();
  const fs::path blob = dir_ / "elsewhere/blobs/0123";
  fs::create_directories(blob.parent_path());
  fs::rename(in() / kTinyShard2, blob);
  fs::create_symlink(blob, in() / kTinyShard2);
  Convert();
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(out() / kTinyShard2)));
}

TEST_F(FileKindTest, RefusesAnIndexThatIsNoFile) {
  WriteInput();
  fs::create_directory(Replace(kIndex));
  ExpectBadInput(kIndex, "expected a regular file, found a directory");
  ASSERT_EQ(::mkfifo(Replace(kIndex).c_str(), 0600), 0);
  ExpectBadInput(kIndex, "expected a regular file, found a FIFO");
  fs::create_symlink(kIndex, Replace(kIndex));
  ExpectBadInput(kIndex, "circle");
  fs::create_symlink("nothing", Replace(kIndex));
  ExpectBadInput(kIndex, "a dead link, a symlink to nothing, which does not exist");
}

TEST_F(FileKindTest, RefusesAConfigThatIsNoFile) {
  WriteInput();
  fs::create_directory(Replace("config.json"));
  ExpectBadInput("config.json", "expected a regular file, found a directory");
  ASSERT_EQ(::mkfifo(Replace("config.json").c_str(), 0600), 0);
  ExpectBadInput("config.json", "expected a regular file, found a FIFO");
  fs::create_symlink("config.json", Replace("config.json"));
  ExpectBadInput("config.json", "circle");
  fs::create_symlink("nothing", Replace("config.json"));
  ExpectBadInput("config.json", "a dead link, a symlink to nothing, which does not exist");
}

TEST_F(FileKindTest, LeavesOutSideFilesThatAreNoFiles) {
  checkpoint_.side_files["notes.txt"] = "kept";
  WriteInput();
  ASSERT_EQ(::mkfifo((in() / "pipe").c_str(), 0600), 0);
  fs::create_symlink("dead", in() / "link");
  fs::create_symlink("../in", in() / "around");
  const convert::ConversionReport report = Convert();
  EXPECT_TRUE(fs::exists(out() / "notes.txt"));
  for (const char* name : {"pipe", "link", "around"}) {
    EXPECT_FALSE(fs::exists(fs::symlink_status(out() / name))) << name;
  }
  EXPECT_THAT(Warnings(report), ::testing::Contains(::testing::HasSubstr("link: ")));
}

TEST_F(FileKindTest, RefusesAnInputThatIsNotThere) {
  in_structure_ = InStructure::kRefused;
  ExpectBadInput(in().string(), "no such file or directory");
}

TEST_F(FileKindTest, RefusesAnInputThatIsALoopOfLinks) {
  in_structure_ = InStructure::kRefused;
  fs::create_symlink("in", in());
  ExpectBadInput(in().string(), "loop");
}

TEST_F(FileKindTest, RefusesAnInputThatIsALinkToNothing) {
  in_structure_ = InStructure::kRefused;
  fs::create_symlink("nothing", in());
  ExpectBadInput(in().string(), "a dead link, a symlink to nothing, which does not exist");
}

TEST_F(FileKindTest, RefusesAFifoAsInput) {
  in_structure_ = InStructure::kRefused;
  ASSERT_EQ(::mkfifo(in().c_str(), 0600), 0);
  ExpectBadInput(in().string(), "neither a regular file nor a directory");
}

TEST_F(FileKindTest, RefusesADirectoryWithoutACheckpoint) {
  in_structure_ = InStructure::kRefused;
  WriteFile(in() / "config.json", checkpoint_.config);
  ExpectBadInput(in().string(), "holds no checkpoint");
}

TEST_F(FileKindTest, RefusesAShardOfAnIndexAndNamesItsDirectory) {
  WriteInput();
  request_.input = in() / kTinyShard1;
  ExpectUsageError(kTinyShard1, "one of the 4 shards", in().string(), "give that directory");
}

TEST_F(FileKindTest, RefusesTheIndexAsInputAndNamesItsDirectory) {
  WriteInput();
  request_.input = in() / kIndex;
  ExpectUsageError(kIndex, in().string());
}

TEST_F(FileKindTest, RefusesAFileThatIsNoCheckpoint) {
  checkpoint_.has_index = false;
  WriteInput();
  request_.input = in() / "README.md";
  ExpectBadInput("README.md");
}

}  // namespace
}  // namespace dsv3::testing
