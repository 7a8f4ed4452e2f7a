#include "formats/zstd_stream.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

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

ZstdStreamDecoder::Source SourceOf(const std::string& frame) {
  return [&frame](std::uint64_t offset, std::span<std::byte> out) {
    ASSERT_LE(offset + out.size(), frame.size());
    std::memcpy(out.data(), frame.data() + offset, out.size());
  };
}

// Reads in pieces; what is wrong, or the content.
std::string Decoded(const std::string& frame, std::size_t piece, std::string& content) {
  ZstdStreamDecoder decoder;
  std::string_view fault = decoder.Begin(SourceOf(frame), frame.size());
  content.clear();
  while (fault.empty() && content.size() < decoder.content_bytes()) {
    std::string next(std::min<std::size_t>(piece, decoder.content_bytes() - content.size()), '\0');
    fault = decoder.Read(std::as_writable_bytes(std::span(next)));
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
    EXPECT_EQ(Decoded(frame, piece, read), "");
    EXPECT_EQ(read, content);
  }
}

TEST(ZstdStreamTest, RefusesFramesThatAreNotOne) {
  const std::string content = Content();
  const std::string frame = Encoded(content, content.size());
  std::string read;
  const auto fault = [&](const std::string& text) { return Decoded(text, 50'000, read); };
  EXPECT_THAT(fault(frame + "x"), HasSubstr("ends before the place"));
  EXPECT_THAT(fault(frame + std::string(500'000, 'x')), HasSubstr("ends before the place"));
  EXPECT_THAT(fault(frame.substr(0, frame.size() - 1)), HasSubstr("cut off"));
  EXPECT_THAT(fault("no frame"), HasSubstr("no zstd frame"));
  EXPECT_THAT(fault(""), HasSubstr("no zstd frame"));
  std::string damaged = frame;
  damaged[frame.size() - 2] ^= 1;
  EXPECT_THAT(fault(damaged), HasSubstr("its checksum is not"));
}

TEST(ZstdStreamTest, PassesOverBytesAndBeginsAnew) {
  const std::string content = Content();
  const std::string frame = Encoded(content, content.size());
  ZstdStreamDecoder decoder;
  for (const std::size_t place : {std::size_t{0}, std::size_t{290'001}, content.size() - 5}) {
    ASSERT_EQ(decoder.Begin(SourceOf(frame), frame.size()), "");
    EXPECT_EQ(decoder.content_bytes(), content.size());
    ASSERT_EQ(decoder.SkipTo(place), "");
    EXPECT_EQ(decoder.position(), place);
    std::string read(5, '\0');
    ASSERT_EQ(decoder.Read(std::as_writable_bytes(std::span(read))), "");
    EXPECT_EQ(read, content.substr(place, 5));
  }
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
