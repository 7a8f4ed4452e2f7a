#include "formats/zstd_frame.h"

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/files.h"

namespace dsv3::formats {
namespace {

using testing::AsBytes;
using ::testing::HasSubstr;
using testing::RandomBytes;

constexpr ZstdMethod kMethods[] = {ZstdMethod::kHuffman, ZstdMethod::kFast, ZstdMethod::kStored,
                                   ZstdMethod::kText};

std::string Frame(std::string_view content, ZstdMethod method = ZstdMethod::kFast) {
  std::string frame(ZstdFrameBound(content.size()), '\0');
  frame.resize(
      ZstdEncoder().Encode(AsBytes(content), method, std::as_writable_bytes(std::span(frame))));
  return frame;
}

// What is wrong with a frame that must hold `bytes` bytes.
std::string FaultOf(std::string_view frame, std::size_t bytes, std::string* content = nullptr) {
  std::string out(bytes, 'x');
  std::string fault(ZstdDecoder().Decode(AsBytes(frame), std::as_writable_bytes(std::span(out))));
  if (content != nullptr) *content = out;
  return fault;
}

// Symbols of a geometric distribution: 2 bits each.
std::string Skewed(std::size_t bytes) {
  std::string text = RandomBytes(bytes, 7);
  for (char& c : text) c = static_cast<char>(__builtin_ctz(static_cast<unsigned char>(c) | 0x100U));
  return text;
}

TEST(ZstdFrameTest, GivesBackWhatItTook) {
  ZstdEncoder encoder;
  ZstdDecoder decoder;
  for (const std::size_t bytes : {0U, 1U, 100U, 131072U, 131073U, 1U << 20}) {
    for (const std::string& content :
         {RandomBytes(bytes, 1), Skewed(bytes), std::string(bytes, 'a')}) {
      for (const ZstdMethod method : kMethods) {
        std::string frame(ZstdFrameBound(bytes), '\0');
        frame.resize(
            encoder.Encode(AsBytes(content), method, std::as_writable_bytes(std::span(frame))));
        std::string back(bytes, 'x');
        EXPECT_EQ(decoder.Decode(AsBytes(frame), std::as_writable_bytes(std::span(back))), "");
        EXPECT_EQ(back, content);
        EXPECT_EQ(frame, Frame(content, method)) << "depends on what was coded before";
        if (method != ZstdMethod::kText) continue;
        EXPECT_EQ(decoder.DecodeText(AsBytes(frame), bytes, back), "");
        EXPECT_EQ(back, content);
      }
    }
  }
}

TEST(ZstdFrameTest, HuffmanCodesLiteralsAndLooksForNoMatches) {
  const std::size_t bytes = 1 << 20;
  const std::string skewed = Skewed(bytes);
  EXPECT_NEAR(static_cast<double>(Frame(skewed, ZstdMethod::kHuffman).size()), bytes / 4.0,
              bytes / 200.0);
  std::string repeated = RandomBytes(bytes / 2, 3);
  repeated += repeated;
  EXPECT_GT(Frame(repeated, ZstdMethod::kHuffman).size(), bytes);
  EXPECT_LT(Frame(RandomBytes(bytes, 3), ZstdMethod::kHuffman).size(), bytes + 100);
}

TEST(ZstdFrameTest, StoresInRawBlocks) {
  EXPECT_EQ(Frame("abc", ZstdMethod::kStored).substr(0, 15),
            std::string("\x28\xB5\x2F\xFD\xA4\3\0\0\0\x19\0\0abc", 15));
  const std::string content = Skewed(300000);
  EXPECT_EQ(Frame(content, ZstdMethod::kStored).size(), content.size() + 9 + 3 * 3 + 4);
}

TEST(ZstdFrameTest, EveryPrefixIsAFault) {
  const std::string content = Skewed(3000);
  for (const ZstdMethod method : kMethods) {
    const std::string frame = Frame(content, method);
    std::string text;
    for (std::size_t size = 0; size < frame.size(); ++size) {
      // Of its own, so that a read behind it is seen.
      const std::string prefix(frame.data(), size);
      EXPECT_NE(FaultOf(prefix, content.size()), "") << size;
      EXPECT_NE(ZstdDecoder().DecodeText(AsBytes(prefix), content.size(), text), "") << size;
    }
  }
}

TEST(ZstdFrameTest, FlippedBitsAreFaultsOrChangeNothing) {
  const std::string content = Skewed(2000);
  const std::string frame = Frame(content, ZstdMethod::kHuffman);
  for (std::size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    std::string flipped = frame;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    std::string back;
    if (!FaultOf(flipped, content.size(), &back).empty()) continue;
    EXPECT_EQ(back, content) << bit;
  }
}

TEST(ZstdFrameTest, SaysWhatIsWrong) {
  const std::string content = Skewed(2000);
  const std::string frame = Frame(content);
  EXPECT_EQ(FaultOf(frame, content.size()), "");
  EXPECT_THAT(FaultOf(frame, content.size() - 1), HasSubstr("as many bytes as it must"));
  EXPECT_THAT(FaultOf(frame, content.size() + 1), HasSubstr("as many bytes as it must"));
  EXPECT_THAT(FaultOf(frame + frame, content.size()), HasSubstr("before the place"));
  EXPECT_THAT(FaultOf(frame + "x", content.size()), HasSubstr("before the place"));
  EXPECT_THAT(FaultOf("x" + frame.substr(1), content.size()), HasSubstr("not a zstd frame"));
  std::string changed = frame;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  EXPECT_THAT(FaultOf(changed, content.size()), HasSubstr("checksum is not that"));
  changed = frame;
  changed[4] = static_cast<char>(changed[4] & ~4);
  EXPECT_THAT(FaultOf(changed, content.size()), HasSubstr("no checksum"));
  changed = frame;
  changed[4] = static_cast<char>(changed[4] | 1);
  EXPECT_THAT(FaultOf(changed, content.size()), HasSubstr("dictionary"));
}

TEST(ZstdFrameTest, TextsHaveASmallWindowAndALimit) {
  const std::string content = Skewed(3 << 20);
  std::string text;
  EXPECT_EQ(
      ZstdDecoder().DecodeText(AsBytes(Frame(content, ZstdMethod::kText)), content.size(), text),
      "");
  EXPECT_EQ(text, content);
  EXPECT_THAT(std::string(ZstdDecoder().DecodeText(AsBytes(Frame(content, ZstdMethod::kText)),
                                                   content.size() - 1, text)),
              HasSubstr("more bytes than it may"));
  // The window's size, RFC 8878 3.1.1.1.2: 2^(10 + 12) bytes.
  std::string wide = Frame(content, ZstdMethod::kText);
  ASSERT_EQ(wide[5], 10 << 3);
  wide[5] = 12 << 3;
  EXPECT_THAT(std::string(ZstdDecoder().DecodeText(AsBytes(wide), content.size(), text)),
              HasSubstr("window is too large"));
  const std::string frame = Frame("abc", ZstdMethod::kText);
  EXPECT_THAT(std::string(ZstdDecoder().DecodeText(AsBytes(frame + frame), 100, text)),
              HasSubstr("before the place"));
}

TEST(ZstdFrameTest, ReadsSkippableFramesOfOneMagicNumber) {
  std::string frame(kSkippableHeadBytes, '\0');
  WriteSkippableHead(0x184D2A53, 3,
                     std::as_writable_bytes(std::span(frame)).first<kSkippableHeadBytes>());
  EXPECT_EQ(frame, std::string("\x53\x2A\x4D\x18\x03\0\0\0", 8));
  frame += "abc";
  const auto content = SkippableContent(0x184D2A53, AsBytes(frame));
  ASSERT_TRUE(content);
  EXPECT_EQ(testing::AsString(*content), "abc");
  EXPECT_FALSE(SkippableContent(0x184D2A52, AsBytes(frame)));
  EXPECT_FALSE(SkippableContent(0x184D2A53, AsBytes(frame + "d")));
  for (std::size_t size = 0; size < frame.size(); ++size) {
    EXPECT_FALSE(SkippableContent(0x184D2A53, AsBytes(frame.substr(0, size)))) << size;
  }
}

}  // namespace
}  // namespace dsv3::formats
