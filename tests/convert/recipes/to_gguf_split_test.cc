#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/convert/recipes/to_gguf_test.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/sanitizers.h"

// --max-file-size.
namespace dsv3::testing {
namespace {

namespace fs = std::filesystem;
using formats::GgufType;
using ::testing::HasSubstr;

constexpr std::uint64_t kSize = 1'000'000;

class ToGgufSplitTest : public ToGgufTest {
 protected:
  static Conversion Splitting(const fs::path& in, const fs::path& out, std::uint64_t size = kSize) {
    return Command(in, out, GgufType::kBF16, {.max_file_bytes = size});
  }

  // The names in a directory.
  static std::vector<std::string> Names(const fs::path& directory) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
};

TEST_F(ToGgufSplitTest, FilesHaveConsecutiveTensorsAndTheirNumbers) {
  const fs::path in = Bf16Sample();
  Command(in, dir_ / "whole.gguf", GgufType::kBF16).Run();
  const File whole = ReadGguf(dir_ / "whole.gguf");
  fs::create_directory(dir_ / "o");
  const convert::ConversionReport report = Splitting(in, dir_ / "o" / "m.gguf").Run();
  const std::size_t count = report.files.size();
  ASSERT_GT(count, 2U);
  ASSERT_LT(count, 10U);
  std::vector<std::string> expected = {"m.gguf.manifest.json"};
  std::map<std::string, std::string> bytes;
  std::vector<std::string> order;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string name =
        "m-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(count) + ".gguf";
    expected.push_back(name);
    const File file = ReadGguf(dir_ / "o" / name);
    EXPECT_EQ(file.Key<std::uint16_t>("split.no"), i);
    EXPECT_EQ(file.Key<std::uint16_t>("split.count"), count);
    EXPECT_EQ(file.Key<std::int32_t>("split.tensors.count"),
              static_cast<std::int32_t>(whole.header.tensors.size()));
    EXPECT_EQ(file.header.keys.size(), i == 0 ? whole.header.keys.size() + 3 : 3U);
    std::uint64_t held = 0;
    for (const formats::GgufTensor& tensor : file.header.tensors) {
      order.push_back(tensor.name);
      held += (tensor.bytes + 31) / 32 * 32;
    }
    EXPECT_TRUE(held <= kSize || file.header.tensors.size() == 1) << name;
    bytes.insert(file.bytes.begin(), file.bytes.end());
  }
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(Names(dir_ / "o"), expected);
  EXPECT_TRUE(bytes == whole.bytes);
  std::vector<std::string> whole_order;
  for (const formats::GgufTensor& tensor : whole.header.tensors) whole_order.push_back(tensor.name);
  EXPECT_EQ(order, whole_order);

  EXPECT_EQ(Splitting(in, dir_ / "o" / "m.gguf").Run().outcome,
            convert::ConversionReport::Outcome::kNothingToDo);
  // Other sizes are another job, which does not touch these files.
  const Conversion one = Splitting(in, dir_ / "o" / "m.gguf", 1'000'000'000);
  one.Run();
  EXPECT_TRUE(ReadFile(dir_ / "o" / "m.gguf") == ReadFile(dir_ / "whole.gguf"));
}

TEST_F(ToGgufSplitTest, ALargerTensorLiesAlone) {
  const fs::path in = Bf16Sample();
  const convert::ConversionReport report = Splitting(in, dir_ / "m.gguf", 1).Run();
  EXPECT_EQ(report.files.size(), report.tensors);
}

TEST_F(ToGgufSplitTest, ReplacesNoOtherFile) {
  const fs::path in = Bf16Sample();
  const Conversion command = Splitting(in, dir_ / "m.gguf");
  const std::size_t count = command.Run().files.size();
  const std::string last =
      "m-0000" + std::to_string(count) + "-of-0000" + std::to_string(count) + ".gguf";
  WriteFile(dir_ / last, "mine");
  const Error error = ErrorOf([&] { command.Run(); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.message(), HasSubstr("--overwrite"));
  Conversion over = command;
  over.request.run.overwrite = true;
  over.Run();
  EXPECT_EQ(ReadGguf(dir_ / last).Key<std::uint16_t>("split.no"), count - 1);
}

TEST_F(ToGgufSplitTest, ContinuesAfterEveryFailedChange) {
  // With scales, whose digests the manifest has whatever is left to be made.
  MakeSample(convert::SamplePreset::kTiny, 1, dir_ / "fp8");
  const fs::path in = dir_ / "fp8";
  fs::create_directory(dir_ / "whole");
  Splitting(in, dir_ / "whole" / "m.gguf").Run();
  const std::vector<std::string> names = Names(dir_ / "whole");
  for (std::size_t change = 0;; change += Stride(5)) {
    SCOPED_TRACE(change);
    fs::create_directory(dir_ / "o");
    const Conversion command = Splitting(in, dir_ / "o" / "m.gguf");
    QuickFileSystem quick;
    FaultyFileSystem faulty(quick, change, EIO);
    bool failed = false;
    try {
      command.Run(faulty);
    } catch (const Error&) {
      failed = true;
    }
    command.Run();
    EXPECT_EQ(Names(dir_ / "o"), names);
    for (const std::string& name : names) {
      if (!name.ends_with(".gguf")) continue;
      EXPECT_TRUE(ReadFile(dir_ / "o" / name) == ReadFile(dir_ / "whole" / name)) << name;
    }
    fs::remove_all(dir_ / "o");
    if (!failed) break;
  }
}

}  // namespace
}  // namespace dsv3::testing
