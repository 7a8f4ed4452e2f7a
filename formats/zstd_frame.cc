#include "formats/zstd_frame.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>

#include <zstd.h>

#include "formats/zstd_layout.h"
#include "formats/zstd_result.h"

namespace dsv3::formats {
namespace {

// RFC 8878, 3.1.1.1: behind the magic number, the frame header's descriptor.
constexpr unsigned kHasChecksum = 0x04;
constexpr unsigned kHasDictionary = 0x03;
constexpr std::size_t kSmallestFrame = kZstdMagicBytes + 1 + 1 + 3;

constexpr int kTextLevel = 12;
constexpr int kTextWindowLog = 20;
static_assert(std::size_t{1} << kTextWindowLog == kTextWindowBytes);
constexpr std::size_t kTextPiece = std::size_t{1} << 17;

constexpr std::string_view kNoFrame = "it is not a zstd frame";

// Raw blocks alone: libzstd would look at the content first.
std::size_t Store(std::span<const std::byte> content, std::byte* const out) {
  std::byte* at = out;
  PutZstdFrameHead(content.size(), at);
  std::size_t begin = 0;
  do {
    const std::size_t bytes = std::min(kZstdBlockBytes, content.size() - begin);
    PutZstdRawBlock(content.subspan(begin, bytes), begin + bytes == content.size(), at);
    begin += bytes;
  } while (begin < content.size());
  PutZstdChecksum(content, at);
  return static_cast<std::size_t>(at - out);
}

void Set(ZSTD_CCtx* context, ZSTD_cParameter parameter, int value) {
  CheckedZstd(ZSTD_CCtx_setParameter(context, parameter, value), "setting a parameter");
}

// What is wrong with the head of a frame; empty when there is nothing.
std::string_view HeadFault(std::span<const std::byte> frame) {
  std::uint32_t magic = 0;
  if (frame.size() < kSmallestFrame) return kNoFrame;
  std::memcpy(&magic, frame.data(), sizeof magic);
  if (magic != kZstdMagic) return kNoFrame;
  const auto descriptor = std::to_integer<unsigned>(frame[kZstdMagicBytes]);
  if ((descriptor & kHasDictionary) != 0) return "it needs a dictionary";
  if ((descriptor & kHasChecksum) == 0) return "it has no checksum";
  return "";
}

}  // namespace

std::size_t ZstdFrameBound(std::size_t content_bytes) { return ZSTD_compressBound(content_bytes); }

void ZstdEncoder::Free::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

ZstdEncoder::ZstdEncoder() : context_(ZSTD_createCCtx()) {
  if (!context_) throw std::bad_alloc();
}

void ZstdEncoder::Configure(ZstdMethod method) {
  if (configured_ == static_cast<int>(method)) return;
  ZSTD_CCtx* const context = context_.get();
  CheckedZstd(ZSTD_CCtx_reset(context, ZSTD_reset_session_and_parameters), "resetting a context");
  Set(context, ZSTD_c_checksumFlag, 1);
  Set(context, ZSTD_c_compressionLevel, method == ZstdMethod::kText ? kTextLevel : 1);
  if (method == ZstdMethod::kText) Set(context, ZSTD_c_windowLog, kTextWindowLog);
  configured_ = static_cast<int>(method);
}

std::size_t ZstdEncoder::Encode(std::span<const std::byte> content, ZstdMethod method,
                                std::span<std::byte> out) {
  if (method == ZstdMethod::kStored) return Store(content, out.data());
  if (method == ZstdMethod::kHuffman) return huffman_.Encode(content, out);
  Configure(method);
  return CheckedZstd(
      ZSTD_compress2(context_.get(), out.data(), out.size(), content.data(), content.size()),
      "compressing");
}

void ZstdDecoder::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

ZstdDecoder::ZstdDecoder() : context_(ZSTD_createDCtx()) {
  if (!context_) throw std::bad_alloc();
  CheckedZstd(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kTextWindowLog),
              "setting a parameter");
}

std::string_view ZstdDecoder::Decode(std::span<const std::byte> frame,
                                     std::span<std::byte> content) {
  if (huffman_.Decode(frame, content)) return "";
  // A frame of another kind, or damaged: then libzstd says what is wrong.
  const std::string_view fault = HeadFault(frame);
  if (!fault.empty()) return fault;
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != content.size()) {
    return "it does not say that it holds as many bytes as it must";
  }
  // Several frames would be decoded as one.
  const std::size_t frame_bytes = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_bytes) != 0) return ZstdFault(frame_bytes);
  if (frame_bytes != frame.size()) return "it ends before the place where it must end";
  const std::size_t decoded = ZSTD_decompressDCtx(context_.get(), content.data(), content.size(),
                                                  frame.data(), frame.size());
  if (ZSTD_isError(decoded) != 0) return ZstdFault(decoded);
  return decoded == content.size() ? "" : "it holds fewer bytes than it says";
}

std::string_view ZstdDecoder::DecodeText(std::span<const std::byte> frame, std::size_t max_bytes,
                                         std::string& text) {
  text.clear();
  const std::string_view fault = HeadFault(frame);
  if (!fault.empty()) return fault;
  CheckedZstd(ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only), "resetting a context");
  const auto piece = std::make_unique<std::array<char, kTextPiece>>();
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  while (true) {
    ZSTD_outBuffer out{piece->data(), piece->size(), 0};
    const std::size_t before = in.pos;
    const std::size_t left = ZSTD_decompressStream(context_.get(), &out, &in);
    if (ZSTD_isError(left) != 0) return ZstdFault(left);
    if (out.pos > max_bytes - text.size()) return "it holds more bytes than it may";
    text.append(piece->data(), out.pos);
    if (left == 0) break;
    if (out.pos == 0 && in.pos == before) return "it is cut off";
  }
  return in.pos == frame.size() ? "" : "it ends before the place where it must end";
}

void WriteSkippableHead(std::uint32_t magic, std::uint32_t content_bytes,
                        std::span<std::byte, kSkippableHeadBytes> out) {
  std::memcpy(out.data(), &magic, sizeof magic);
  std::memcpy(out.data() + sizeof magic, &content_bytes, sizeof content_bytes);
}

std::optional<std::span<const std::byte>> SkippableContent(std::uint32_t magic,
                                                           std::span<const std::byte> frame) {
  std::uint32_t found = 0;
  std::uint32_t bytes = 0;
  if (frame.size() < kSkippableHeadBytes) return std::nullopt;
  std::memcpy(&found, frame.data(), sizeof found);
  std::memcpy(&bytes, frame.data() + sizeof found, sizeof bytes);
  if (found != magic || bytes != frame.size() - kSkippableHeadBytes) return std::nullopt;
  return frame.subspan(kSkippableHeadBytes);
}

}  // namespace dsv3::formats
