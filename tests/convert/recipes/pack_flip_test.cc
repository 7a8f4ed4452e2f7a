// Flipped bits anywhere in a packed checkpoint.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/recipes/pack.h"
#include "convert/verify/checksum.h"
#include "tests/convert/recipes/pack_test.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Dtype;
using testing::Conversion;
using testing::ReadFile;
using testing::ReadTree;
using testing::TinyCheckpoint;
using testing::WriteFile;

constexpr char kFirstShard[] = "model-00001-of-00002.safetensors";
constexpr char kSecondShard[] = "model-00002-of-00002.safetensors";

// So many flips in each directory; DSV3_FLIPS asks for more.
std::size_t Flips() {
  const char* const asked = std::getenv("DSV3_FLIPS");
  return asked == nullptr ? 300 : std::strtoul(asked, nullptr, 10);
}

class PackFlipTest : public testing::PackTest {
 protected:
  void SetUp() override {
    Write(in(), 0);
    Write(base_, 1);
  }

  // Two of these differ in every third byte of their larger tensors.
  static void Write(const fs::path& directory, char bits) {
    TinyCheckpoint checkpoint;
    checkpoint.config = "{\"model_type\": \"of no family\"}";
    checkpoint.Add(kFirstShard, "w", Dtype::kBF16, {30, 20});
    checkpoint.Find("w").bytes = testing::WeightBytes(600, 3);
    checkpoint.Add(kFirstShard, "codes", Dtype::kF8E4M3, {17, 11});
    checkpoint.Add(kSecondShard, "ids", Dtype::kI64, {9});
    checkpoint.Add(kSecondShard, "none", Dtype::kF32, {0});
    checkpoint.side_files = {{"tokenizer.json", "{\"a\": 1}"}, {"code/model.py", "pass"}};
    for (testing::TinyTensor& tensor : checkpoint.tensors) {
      for (std::size_t i = 0; i < tensor.bytes.size(); i += 3) tensor.bytes[i] ^= bits;
    }
    checkpoint.Write(directory);
  }

  void PackOn(const fs::path& base) const {
    Conversion(in(), packed(), PackConversion({.base = base})).Run();
  }

  // Expects that the check names the file.
  void ExpectFound(const std::string& file, const fs::path& base) const {
    CheckChecksumsRequest request;
    request.directory = packed();
    request.base = base;
    request.threads = 1;
    ProgressSink progress;
    const StopToken stop;
    const CheckChecksumsReport report = CheckChecksums(request, progress, stop);
    bool is_named = false;
    for (const formats::Finding& finding : report.verification.findings) {
      is_named =
          is_named || (finding.severity == formats::Severity::kError && finding.file == file);
    }
    EXPECT_TRUE(is_named);
    EXPECT_FALSE(report.verification.Passes(/*strict=*/false));
  }

  // Expects every file as it was, or an error that names one and nothing that is not as it was.
  void ExpectExactOrRefused(const fs::path& base) const {
    fs::remove_all(out());
    Conversion conversion = Unpack(packed(), out());
    conversion.request.run.base = base;
    std::optional<Error> error;
    try {
      conversion.Run();
    } catch (const Error& thrown) {
      error = thrown;
    }
    if (error) {
      EXPECT_EQ(error->code(), ErrorCode::kBadInput) << error->message();
      EXPECT_NE(error->place().file, "") << error->message();
      if (!fs::exists(out())) return;
    }
    auto made = ReadTree(out());
    made.erase(testing::kManifestFile);
    const auto original = ReadTree(in());
    if (!error) {
      EXPECT_EQ(made, original);
      return;
    }
    for (const auto& [name, content] : made) {
      const bool is_hidden = name.starts_with(".dsv3-") || name.ends_with(".partial");
      const auto found = original.find(name);
      EXPECT_TRUE(is_hidden || (found != original.end() && found->second == content)) << name;
    }
  }

  // Flips one bit after the other, as often in each file. `base` is that of the packed checkpoint,
  // or empty; `unpacks` whether it is unpacked, too.
  void FlipAll(const fs::path& base, bool unpacks, std::uint64_t seed) const {
    std::vector<std::pair<std::string, std::string>> files;
    for (const auto& [name, content] : ReadTree(packed())) {
      if (!content.empty()) files.emplace_back(name, content);
    }
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < Flips(); ++i) {
      const auto& [name, content] = files[random() % files.size()];
      const std::size_t bit = random() % (8 * content.size());
      SCOPED_TRACE(name + ", bit " + std::to_string(bit));
      std::string flipped = content;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
      WriteFile(packed() / name, flipped);
      ExpectFound(name, base);
      if (unpacks) ExpectExactOrRefused(base);
      WriteFile(packed() / name, content);
      if (HasFailure()) return;
    }
  }

  const fs::path base_ = dir_ / "base";
};

TEST_F(PackFlipTest, OfACheckpointPackedAlone) {
  Pack();
  FlipAll("", true, 1);
}

TEST_F(PackFlipTest, OfDifferencesWithTheirBase) {
  PackOn(base_);
  FlipAll(base_, true, 2);
}

TEST_F(PackFlipTest, OfDifferencesWithoutTheirBase) {
  PackOn(base_);
  FlipAll("", false, 3);
}

}  // namespace
}  // namespace dsv3::convert
