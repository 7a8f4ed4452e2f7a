#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/huffman_decoder.h"
#include "formats/huffman_frame.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

// Frames of Zstandard (RFC 8878), by libzstd where there are matches. Every data frame that is
// written holds its content's size and its checksum (XXH64, low 32 bits), and such frames alone are
// read. A skippable frame holds bytes that decoders pass over: a magic number, u32 length, the
// bytes.
namespace dsv3::formats {

inline constexpr std::size_t kSkippableHeadBytes = 8;  // before a skippable's content

enum class ZstdMethod {
  kHuffman,  // no matches are looked for: literals alone, by Huffman codes where these are shorter
  kFast,     // level 1
  kStored,   // as it is
  kText,     // for JSON of any length: level 12, with a window of kTextWindowBytes at most
};

inline constexpr std::size_t kTextWindowBytes = std::size_t{1} << 20;

// The most bytes that a frame of `content_bytes` takes, whatever the method.
std::size_t ZstdFrameBound(std::size_t content_bytes);

// Writes frames. The bytes depend on content and method alone, of kFast and kText also on libzstd's
// version. One instance is used by one thread at a time.
class ZstdEncoder {
 public:
  ZstdEncoder();

  // Writes the frame of `content` to the start of `out`, which has ZstdFrameBound(content.size())
  // bytes at least. Returns the frame's size.
  std::size_t Encode(std::span<const std::byte> content, ZstdMethod method,
                     std::span<std::byte> out);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  void Configure(ZstdMethod method);

  HuffmanFrameEncoder huffman_;
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
  int configured_ = -1;  // the method that the context is set to
};

// Reads frames. One instance is used by one thread at a time. What the bytes claim is never
// believed: memory is that of the caller's spans and limits. A fault is returned as what is wrong,
// such as "its checksum is not that of its content"; empty when all is well.
class ZstdDecoder {
 public:
  ZstdDecoder();

  // Fills `content` from `frame`, which must be one frame, whole, with nothing behind it, that says
  // that it holds content.size() bytes and has a checksum and no dictionary. After a fault the
  // content may be overwritten in part.
  std::string_view Decode(std::span<const std::byte> frame, std::span<std::byte> content);

  // Replaces `text` by the content of one frame as kText makes it. Content beyond `max_bytes`
  // or a window beyond kTextWindowBytes is a fault. Memory grows with what is decoded.
  std::string_view DecodeText(std::span<const std::byte> frame, std::size_t max_bytes,
                              std::string& text);

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  HuffmanFrameDecoder huffman_;
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
};

// Writes the head of a skippable frame of `content_bytes`: magic number and length.
// Precondition: `magic` is one of the sixteen from 0x184D2A50 on.
void WriteSkippableHead(std::uint32_t magic, std::uint32_t content_bytes,
                        std::span<std::byte, kSkippableHeadBytes> out);

// The content of `frame`, one whole skippable frame of this magic number with nothing behind it;
// nothing when it is none.
std::optional<std::span<const std::byte>> SkippableContent(std::uint32_t magic,
                                                           std::span<const std::byte> frame);

}  // namespace dsv3::formats
