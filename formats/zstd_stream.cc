#include "formats/zstd_stream.h"

#include <algorithm>
#include <array>
#include <new>
#include <utility>

#include <zstd.h>

#include "formats/zstd_result.h"

namespace dsv3::formats {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 17;
constexpr std::string_view kWhat = "compressing";  // in errors

void Compress(ZSTD_CCtx* context, std::span<const std::byte> content, ZSTD_EndDirective directive,
              const ZstdStreamEncoder::Sink& sink) {
  const auto piece = std::make_unique<std::array<std::byte, kPieceBytes>>();
  ZSTD_inBuffer in{content.data(), content.size(), 0};
  while (true) {
    ZSTD_outBuffer out{piece->data(), piece->size(), 0};
    const std::size_t left =
        CheckedZstd(ZSTD_compressStream2(context, &out, &in, directive), kWhat);
    if (out.pos != 0) sink(std::span(*piece).first(out.pos));
    const bool done = directive == ZSTD_e_end ? left == 0 : in.pos == in.size;
    if (done) return;
  }
}

}  // namespace

void ZstdStreamEncoder::Free::operator()(ZSTD_CCtx_s* context) const { ZSTD_freeCCtx(context); }

ZstdStreamEncoder::ZstdStreamEncoder() : context_(ZSTD_createCCtx()) {
  if (!context_) throw std::bad_alloc();
  CheckedZstd(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, 1), kWhat);
  CheckedZstd(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1), kWhat);
}

void ZstdStreamEncoder::Begin(std::uint64_t content_bytes) {
  CheckedZstd(ZSTD_CCtx_reset(context_.get(), ZSTD_reset_session_only), kWhat);
  CheckedZstd(ZSTD_CCtx_setPledgedSrcSize(context_.get(), content_bytes), kWhat);
}

void ZstdStreamEncoder::Add(std::span<const std::byte> content, const Sink& sink) {
  if (!content.empty()) Compress(context_.get(), content, ZSTD_e_continue, sink);
}

void ZstdStreamEncoder::End(const Sink& sink) { Compress(context_.get(), {}, ZSTD_e_end, sink); }

void ZstdStreamDecoder::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

ZstdStreamDecoder::ZstdStreamDecoder() : context_(ZSTD_createDCtx()) {
  if (!context_) throw std::bad_alloc();
  CheckedZstd(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, int{kMostWindowLog}),
              kWhat);
}

void ZstdStreamDecoder::Refill() {
  if (taken_ < piece_.size() || fetched_ == frame_bytes_) return;
  piece_.resize(
      static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, frame_bytes_ - fetched_)));
  taken_ = 0;
  source_(fetched_, piece_);
  fetched_ += piece_.size();
}

std::string_view ZstdStreamDecoder::Begin(Source source, std::uint64_t frame_bytes) {
  source_ = std::move(source);
  frame_bytes_ = frame_bytes;
  fetched_ = 0;
  piece_.clear();
  taken_ = 0;
  position_ = 0;
  Refill();
  content_bytes_ = ZSTD_getFrameContentSize(piece_.data(), piece_.size());
  if (content_bytes_ == ZSTD_CONTENTSIZE_UNKNOWN || content_bytes_ == ZSTD_CONTENTSIZE_ERROR) {
    content_bytes_ = 0;
    return "it is no zstd frame that says what it holds";
  }
  if (ZSTD_getDictID_fromFrame(piece_.data(), piece_.size()) != 0) return "it needs a dictionary";
  CheckedZstd(ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only), kWhat);
  return "";
}

std::string_view ZstdStreamDecoder::Read(std::span<std::byte> content) {
  ZSTD_outBuffer out{content.data(), content.size(), 0};
  const bool is_last = position_ + content.size() == content_bytes_;
  std::size_t left = 1;
  while (out.pos < out.size || (is_last && left != 0)) {
    Refill();
    ZSTD_inBuffer in{piece_.data(), piece_.size(), taken_};
    const std::size_t out_before = out.pos;
    left = ZSTD_decompressStream(context_.get(), &out, &in);
    const bool took = in.pos != taken_;
    taken_ = in.pos;
    if (ZSTD_isError(left) != 0) return ZstdFault(left);
    if (left == 0 && out.pos < out.size) return "it holds fewer bytes than it says";
    if (left != 0 && !took && out.pos == out_before) {
      return taken_ == piece_.size() ? "it is cut off" : "it holds more bytes than it says";
    }
  }
  position_ += out.pos;
  if (is_last && (taken_ != piece_.size() || fetched_ != frame_bytes_)) {
    return "it ends before the place where it must end";
  }
  return "";
}

std::string_view ZstdStreamDecoder::SkipTo(std::uint64_t position) {
  std::vector<std::byte> skipped;
  while (position_ < position) {
    skipped.resize(
        static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, position - position_)));
    const std::string_view fault = Read(skipped);
    if (!fault.empty()) return fault;
  }
  return "";
}

void ZstdFrameChecker::Free::operator()(ZSTD_DCtx_s* context) const { ZSTD_freeDCtx(context); }

ZstdFrameChecker::ZstdFrameChecker() : context_(ZSTD_createDCtx()) {
  if (!context_) throw std::bad_alloc();
}

void ZstdFrameChecker::Begin() {
  CheckedZstd(ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only), kWhat);
  ended_ = false;
}

bool ZstdFrameChecker::Add(std::span<const std::byte> frame, const Sink& sink) {
  const auto piece = std::make_unique<std::array<std::byte, kPieceBytes>>();
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  while (true) {
    ZSTD_outBuffer out{piece->data(), piece->size(), 0};
    const std::size_t left = ZSTD_decompressStream(context_.get(), &out, &in);
    if (ZSTD_isError(left) != 0) return false;
    if (out.pos != 0) sink(std::span(*piece).first(out.pos));
    ended_ = left == 0;
    if (ended_ || (in.pos == in.size && out.pos < out.size)) return in.pos == in.size;
  }
}

}  // namespace dsv3::formats
