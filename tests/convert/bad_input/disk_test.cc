#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <ostream>
#include <string>

#include <sys/mount.h>
#include <unistd.h>

#include "convert/job/runner.h"
#include "convert/recipes/fp8_to_bf16.h"
#include "tests/convert/bad_input/bad_input_test.h"
#include "tests/convert/support/conversion.h"
#include "tests/convert/support/quick_file_system.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"

// Disks that are full, read-only, failing or out of reach.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using Failing = FaultyFileSystem::Failing;

class DiskTest : public BadInputTest {
 protected:
  // The Error of a conversion whose change number `fail_at` fails; nothing when it has no such
  // change.
  std::optional<Error> FailAt(std::size_t fail_at, int errno_value, Failing failing) {
    FaultyFileSystem faulty(quick_, fail_at, errno_value, failing);
    convert::ProgressSink progress;
    const convert::StopToken stop;
    try {
      convert::RunConversion(convert::Fp8ToBf16Conversion(), request_, faulty, progress, stop);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }

  void ConvertQuickly() {
    convert::ProgressSink progress;
    const convert::StopToken stop;
    convert::RunConversion(convert::Fp8ToBf16Conversion(), request_, quick_, progress, stop);
  }

  // What a conversion without trouble makes.
  std::map<std::string, std::string> Reference() {
    request_.output = dir_ / "reference";
    ConvertQuickly();
    request_.output = out();
    return ReadTree(dir_ / "reference");
  }

  QuickFileSystem quick_;
};

// Expects every file of `tree` that has a final name to be as in `reference`, and the index only
// with all weights, the manifest only with everything.
void ExpectNothingHalf(const std::map<std::string, std::string>& tree,
                       const std::map<std::string, std::string>& reference) {
  std::size_t complete = 0;
  for (const auto& [name, content] : tree) {
    const std::string file = fs::path(name).filename();
    if (file.starts_with(".dsv3-") || file.ends_with(".partial")) continue;
    const auto expected = reference.find(name);
    ASSERT_NE(expected, reference.end()) << name;
    EXPECT_EQ(content, expected->second) << name;
    ++complete;
  }
  if (tree.count("model.safetensors.index.json") != 0) {
    EXPECT_GE(complete + 1, reference.size());
  }
  if (tree.count("checkpoint.manifest.json") != 0) {
    EXPECT_EQ(complete, reference.size());
  }
}

struct DiskTrouble {
  const char* name;
  int errno_value;
  Failing failing;
  const char* words;
};

void PrintTo(const DiskTrouble& param, std::ostream* out) { *out << param.name; }

const DiskTrouble kTroubles[] = {
    {"Full", ENOSPC, Failing::kFromThenOn, "No space left on device; free some space"},
    {"FullForAMoment", ENOSPC, Failing::kOnce, "No space left on device; free some space"},
    {"QuotaExceeded", EDQUOT, Failing::kFromThenOn, "your disk quota is used up"},
    {"ReadOnly", EROFS, Failing::kFromThenOn, "mounted read-only, choose another directory"},
    {"NoPermission", EACCES, Failing::kFromThenOn, "check the permissions"},
    {"Broken", EIO, Failing::kOnce, "the disk may be failing"},
};

class DiskTroubleTest : public DiskTest, public ::testing::WithParamInterface<DiskTrouble> {};

// Whatever change it is that fails.
TEST_P(DiskTroubleTest, EndsWithAnIoErrorAndTheSameCommandContinues) {
  WriteInput();
  const auto reference = Reference();
  const DiskTrouble& trouble = GetParam();
  std::size_t fail_at = 0;
  for (;; fail_at += testing::Stride(5)) {
    SCOPED_TRACE(fail_at);
    const std::optional<Error> error = FailAt(fail_at, trouble.errno_value, trouble.failing);
    if (!error) break;
    EXPECT_EQ(error->code(), ErrorCode::kIo) << error->message();
    EXPECT_THAT(error->message(), ::testing::HasSubstr(trouble.words));
    EXPECT_THAT(error->message(), ::testing::HasSubstr(dir_.path().string()));
    if (fs::exists(out())) ExpectNothingHalf(ReadTree(out()), reference);
    ConvertQuickly();
    EXPECT_EQ(ReadTree(out()), reference);
    fs::remove_all(out());
    if (HasFailure()) break;
  }
  EXPECT_GT(fail_at, 40U);
}

INSTANTIATE_TEST_SUITE_P(Disks, DiskTroubleTest, ::testing::ValuesIn(kTroubles),
                         [](const auto& test) { return std::string(test.param.name); });

// A tmpfs for one test; not mounted where that is not allowed.
class Mount {
 public:
  Mount(fs::path path, unsigned long flags, const char* options) : path_(std::move(path)) {
    fs::create_directories(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", flags, options) == 0;
  }
  ~Mount() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  bool mounted() const { return mounted_; }

 private:
  fs::path path_;
  bool mounted_ = false;
};

TEST_F(DiskTest, RefusesAReadOnlyFileSystem) {
  const Mount mount(dir_ / "disk", MS_RDONLY, "size=1m");
  if (!mount.mounted()) GTEST_SKIP() << "mounting is not allowed here";
  WriteInput();
  for (const fs::path& output : {dir_ / "disk/out", dir_ / "disk"}) {
    request_.output = output;
    ExpectRefused(ErrorCode::kIo, output.string(), "read-only");
  }
}

TEST_F(DiskTest, RefusesAFullFileSystemBeforeAByteIsWritten) {
  const Mount mount(dir_ / "disk", 0, "size=1m");
  if (!mount.mounted()) GTEST_SKIP() << "mounting is not allowed here";
  checkpoint_.Add(kTinyShard1, "large.weight", formats::Dtype::kU8, {2'000'000});
  WriteInput();
  for (const fs::path& output : {dir_ / "disk/deep/out", dir_ / "disk"}) {
    request_.output = output;
    ExpectRefused(ErrorCode::kIo, output.string(), "are needed on this disk", "are free",
                  "name another disk");
  }
}

TEST_F(DiskTest, TellsInADryRunThatItDoesNotFit) {
  const Mount mount(dir_ / "disk", 0, "size=1m");
  if (!mount.mounted()) GTEST_SKIP() << "mounting is not allowed here";
  checkpoint_.Add(kTinyShard1, "large.weight", formats::Dtype::kU8, {2'000'000});
  WriteInput();
  request_.output = dir_ / "disk/out";
  request_.run.dry_run = true;
  const convert::ConversionReport report = Convert();
  EXPECT_FALSE(report.fits);
  EXPECT_GT(report.disk_needed_bytes, 2'000'000u);
  EXPECT_EQ(report.disk_free_bytes, std::uint64_t{1} << 20);
}

// The rights of a user who is not root, for as long as the instance lives.
class Unprivileged {
 public:
  Unprivileged() { changed_ = ::geteuid() != 0 || ::seteuid(kNobody) == 0; }
  ~Unprivileged() {
    if (::getuid() == 0 && ::seteuid(0) != 0) std::abort();
  }
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;

  bool changed() const { return changed_; }

 private:
  static constexpr uid_t kNobody = 65534;
  bool changed_ = false;
};

class PermissionTest : public DiskTest {
 protected:
  // Everyone may look at everything below the test's directory.
  void Open() {
    for (const auto& entry : fs::recursive_directory_iterator(dir_.path())) {
      fs::permissions(entry, fs::perms::all);
    }
    fs::permissions(dir_.path(), fs::perms::all);
  }
};

TEST_F(PermissionTest, RefusesAShardThatMustNotBeRead) {
  WriteInput();
  Open();
  fs::permissions(in() / kTinyShard2, fs::perms::none);
  const Unprivileged user;
  if (!user.changed()) GTEST_SKIP() << "no user without rights is to be had";
  ExpectRefused(ErrorCode::kIo, kTinyShard2, "Permission denied", "check the permissions");
}

TEST_F(PermissionTest, RefusesAnInputThatMustNotBeListed) {
  WriteInput();
  Open();
  fs::permissions(in(), fs::perms::none);
  const Unprivileged user;
  if (!user.changed()) GTEST_SKIP() << "no user without rights is to be had";
  ExpectRefused(ErrorCode::kIo, in().string(), "Permission denied", "check the permissions");
}

// Whether the source of a finished output is still there cannot be seen.
TEST_F(PermissionTest, RefusesAnInputBehindALockedDoorBesideAFinishedOutput) {
  WriteInput();
  ConvertQuickly();
  fs::create_directory(dir_ / "locked");
  fs::rename(in(), dir_ / "locked/in");
  Open();
  fs::permissions(dir_ / "locked", fs::perms::none);
  const Unprivileged user;
  if (!user.changed()) GTEST_SKIP() << "no user without rights is to be had";
  request_.input = dir_ / "locked/in";
  const Error error = ErrorOf([&] { ConvertQuickly(); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.message(),
              ::testing::AllOf(::testing::HasSubstr("Permission denied"),
                               ::testing::HasSubstr((dir_ / "locked/in").string())));
}

TEST_F(PermissionTest, RefusesAnOutputThatMustNotBeMade) {
  WriteInput();
  fs::create_directories(dir_ / "locked/inner");
  Open();
  const fs::perms read_only = fs::perms::owner_read | fs::perms::owner_exec |
                              fs::perms::others_read | fs::perms::others_exec;
  fs::permissions(dir_ / "locked", read_only);
  fs::permissions(dir_ / "locked/inner", read_only);
  const Unprivileged user;
  if (!user.changed()) GTEST_SKIP() << "no user without rights is to be had";
  for (const fs::path& output : {dir_ / "locked/out", dir_ / "locked/inner"}) {
    request_.output = output;
    ExpectRefused(ErrorCode::kIo, output.string(), "Permission denied", "check the permissions");
  }
}

TEST_F(PermissionTest, RefusesAnOutputBehindALockedDoor) {
  WriteInput();
  fs::create_directories(dir_ / "locked/inner");
  Open();
  fs::permissions(dir_ / "locked", fs::perms::none);
  const Unprivileged user;
  if (!user.changed()) GTEST_SKIP() << "no user without rights is to be had";
  request_.output = dir_ / "locked/inner";
  ExpectRefused(ErrorCode::kIo, request_.output.string(), "Permission denied");
}

}  // namespace
}  // namespace dsv3::testing
