#include "formats/zstd_stream.h"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/zstd_frame.h"
#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using ::testing::HasSubstr;

std::string Content() {
  std::string content = testing::RandomBytes(300'000, 3);
  content.insert(content.size() / 2, std::string(400'000, 'z'));
  return content;
}

std::string Encoded(const std::string& content, std::size_t piece) {
  ZstdStreamEncoder encoder;
  std::string frame;
  const auto sink = [&](std::span<const std::byte> bytes) {
    frame.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  encoder.Begin(1);  // a frame that is not ended is forgotten
  encoder.Begin(content.size());
  for (std::size_t begin = 0; begin < content.size(); begin += piece) {
    encoder.Add(testing::AsBytes(std::string_view(content).substr(begin, piece)), sink);
  }
  encoder.End(sink);
  return frame;
}

// Reads in pieces, each from another copy of the frame; what is wrong, or the content.
std::string Decoded(const std::string& frame, std::size_t bytes, std::size_t piece,
                    std::string& content) {
  ZstdStreamDecoder decoder;
  std::string_view fault = decoder.Begin(testing::AsBytes(frame), bytes);
  content.clear();
  while (fault.empty() && content.size() < bytes) {
    std::string next(std::min(piece, bytes - content.size()), '\0');
    const std::string copy = frame;
    fault = decoder.Read(testing::AsBytes(copy), std::as_writable_bytes(std::span(next)));
    content += next;
  }
  return std::string(fault);
}

TEST(ZstdStreamTest, GivesTheContentBackWhateverThePieces) {
  const std::string content = Content();
  const std::string frame = Encoded(content, 100'001);
  EXPECT_EQ(Encoded(content, 7'777), frame);
  std::string whole(content.size(), '\0');
  EXPECT_EQ(ZstdDecoder().Decode(testing::AsBytes(frame), std::as_writable_bytes(std::span(whole))),
            "");
  EXPECT_EQ(whole, content);
  std::string read;
  for (const std::size_t piece : {std::size_t{4096}, std::size_t{99'999}, content.size()}) {
    EXPECT_EQ(Decoded(frame, content.size(), piece, read), "");
    EXPECT_EQ(read, content);
  }
}

TEST(ZstdStreamTest, RefusesFramesThatAreNotOne) {
  const std::string content = Content();
  const std::string frame = Encoded(content, content.size());
  std::string read;
  const auto fault = [&](const std::string& text, std::size_t bytes) {
    return Decoded(text, bytes, 50'000, read);
  };
  EXPECT_THAT(fault(frame, content.size() + 1), HasSubstr("as many bytes as it must"));
  EXPECT_THAT(fault(frame + "x", content.size()), HasSubstr("ends before the place"));
  EXPECT_THAT(fault(frame.substr(0, frame.size() - 1), content.size()), HasSubstr("cut off"));
  EXPECT_THAT(fault("no frame", 3), HasSubstr("no zstd frame"));
  EXPECT_THAT(fault("", 0), HasSubstr("no zstd frame"));
  std::string damaged = frame;
  damaged[frame.size() - 2] ^= 1;
  EXPECT_THAT(fault(damaged, content.size()), HasSubstr("its checksum is not"));
}

TEST(ZstdStreamTest, IsCheckedWhileItIsMade) {
  const std::string content = Content();
  std::string frame = Encoded(content, content.size());
  ZstdFrameChecker checker;
  std::string decoded;
  const auto sink = [&](std::span<const std::byte> bytes) {
    decoded.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  checker.Begin();
  for (std::size_t begin = 0; begin < frame.size(); begin += 1000) {
    EXPECT_FALSE(checker.ended());
    ASSERT_TRUE(checker.Add(testing::AsBytes(std::string_view(frame).substr(begin, 1000)), sink));
  }
  EXPECT_TRUE(checker.ended());
  EXPECT_EQ(decoded, content);
  frame[frame.size() - 1] ^= 1;
  checker.Begin();
  EXPECT_FALSE(checker.Add(testing::AsBytes(frame), sink));
}

}  // namespace
}  // namespace dsv3::formats
