#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "convert/verify/checksum.h"
#include "formats/safetensors.h"
#include "tests/convert/support/tiny_checkpoint.h"
#include "tests/convert/verify/checksum_support.h"
#include "tests/support/files.h"
#include "tests/support/sanitizers.h"
#include "tests/support/temp_dir.h"

// Every single bit counts: in weights, headers, index, config and side files.
namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// Bits that are flipped, one at a time.
constexpr std::size_t kFlips = 10'000;

struct Place {
  std::string file;
  std::uint64_t offset;
};

class BitFlipTest : public ::testing::Test {
 protected:
  BitFlipTest() {
    testing::SmallFp8Checkpoint().Write(model_);
    for (const auto& [name, content] : testing::ReadTree(model_)) {
      for (std::size_t i = 0; i < content.size(); ++i) places_.push_back({name, i});
      if (!name.ends_with(".safetensors")) continue;
      headers_.emplace(name, formats::ReadSafetensorsHeader(model_ / name, name));
    }
  }

  void Flip(const Place& place, unsigned bit) const {
    std::fstream file(model_ / place.file, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(place.offset));
    const int byte = file.get() ^ (1 << bit);
    file.seekp(static_cast<std::streamoff>(place.offset));
    file.put(static_cast<char>(byte));
  }

  // The tensor whose data the byte belongs to; empty for headers and other files.
  std::string TensorAt(const Place& place) const {
    const auto header = headers_.find(place.file);
    if (header == headers_.end()) return "";
    for (const formats::SafetensorsTensor& tensor : header->second.tensors) {
      const std::uint64_t begin = header->second.data_offset + tensor.begin;
      const std::uint64_t end = header->second.data_offset + tensor.end;
      if (begin <= place.offset && place.offset < end) return tensor.name;
    }
    return "";
  }

  testing::TempDir dir_{testing::MemoryDirectory()};
  fs::path model_ = dir_ / "model";
  std::vector<Place> places_;
  std::map<std::string, formats::SafetensorsHeader> headers_;
};

TEST_F(BitFlipTest, NamesFileAndTensorOfEveryFlippedBit) {
  ASSERT_TRUE(testing::Create(model_, false).written);
  std::mt19937_64 random(20260101);
  for (std::size_t i = 0; i < kFlips; i += testing::Stride(20)) {
    const Place& place = places_[random() % places_.size()];
    const auto bit = static_cast<unsigned>(random() % 8);
    SCOPED_TRACE(place.file + " byte " + std::to_string(place.offset) + " bit " +
                 std::to_string(bit));
    Flip(place, bit);
    const Verification found = testing::Check(model_).verification;
    Flip(place, bit);
    ASSERT_FALSE(found.Passes(false));
    const std::string tensor = TensorAt(place);
    bool named = false;
    for (const formats::Finding& finding : found.findings) {
      ASSERT_EQ(finding.file, place.file);
      if (!tensor.empty() && !finding.tensor.empty()) {
        ASSERT_EQ(finding.tensor, tensor);
        named = true;
      }
    }
    ASSERT_TRUE(named || tensor.empty());
  }
  EXPECT_TRUE(testing::Check(model_).verification.findings.empty());
}

}  // namespace
}  // namespace dsv3::convert
