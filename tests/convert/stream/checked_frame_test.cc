#include "convert/stream/checked_frame.h"

#include <cstddef>
#include <random>
#include <span>
#include <string>

#include <gtest/gtest.h>

#include "formats/zstd_frame.h"
#include "tests/support/files.h"

namespace dsv3::convert {
namespace {

// Noise, of which a frame is as long, in several pieces.
std::string Content() {
  std::mt19937 random(5);
  std::string content(500'000, '\0');
  for (char& byte : content) byte = static_cast<char>(random());
  return content;
}

TEST(CheckedFrameTest, GivesTheContentBackFrameAfterFrame) {
  CheckedFrameEncoder encoder;
  std::string frame;
  const auto sink = [&](std::span<const std::byte> bytes) { frame += testing::AsString(bytes); };
  encoder.Begin(9);  // not ended
  encoder.Add(testing::AsBytes("another"), sink);
  for (const std::string& content : {Content(), std::string("short"), std::string()}) {
    frame.clear();
    encoder.Begin(content.size());
    for (std::size_t begin = 0; begin < content.size(); begin += 300'000) {
      encoder.Add(testing::AsBytes(std::string_view(content).substr(begin, 300'000)), sink);
    }
    EXPECT_TRUE(encoder.End(sink));
    std::string decoded(content.size(), '\0');
    EXPECT_EQ(formats::ZstdDecoder().Decode(testing::AsBytes(frame),
                                            std::as_writable_bytes(std::span(decoded))),
              "");
    EXPECT_TRUE(decoded == content);
  }
}

// As memory that is faulty does.
TEST(CheckedFrameTest, ContentThatChangesWhileItIsCompressedIsFound) {
  CheckedFrameEncoder encoder;
  std::string content = Content();
  bool has_changed = false;
  const auto sink = [&](std::span<const std::byte>) {
    if (!has_changed) content.back() = static_cast<char>(content.back() ^ 1);
    has_changed = true;
  };
  encoder.Begin(content.size());
  encoder.Add(testing::AsBytes(content), sink);
  EXPECT_TRUE(has_changed);
  EXPECT_FALSE(encoder.End(sink));
  encoder.Begin(content.size());
  encoder.Add(testing::AsBytes(content), sink);
  EXPECT_TRUE(encoder.End(sink));
}

}  // namespace
}  // namespace dsv3::convert
