#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

// One frame of Zstandard (RFC 8878) of any length, made and read piece by piece.
namespace dsv3::formats {

// Writes frames at level 1, which hold their content's size and checksum. The bytes depend on the
// content and libzstd's version alone, not on its pieces. One instance is used by one thread at a
// time.
class ZstdStreamEncoder {
 public:
  using Sink = std::function<void(std::span<const std::byte> frame)>;

  ZstdStreamEncoder();

  // Begins a frame of `content_bytes`, in place of one that was not ended.
  void Begin(std::uint64_t content_bytes);
  void Add(std::span<const std::byte> content, const Sink& sink);
  // Precondition: as many bytes were added as Begin announced.
  void End(const Sink& sink);

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
};

// Reads one frame from its start; it holds its content's size, and may lack a checksum. What the
// bytes claim is never believed: memory is a window of kMostWindowBytes at most. A fault is
// returned as what is wrong; empty when all is well. One instance is used by one thread at a time.
class ZstdStreamDecoder {
 public:
  static constexpr unsigned kMostWindowLog = 24;
  static constexpr std::size_t kMostWindowBytes = std::size_t{1} << kMostWindowLog;

  ZstdStreamDecoder();

  // Begins with `frame`, which must say that it holds `content_bytes` and need no dictionary.
  std::string_view Begin(std::span<const std::byte> frame, std::uint64_t content_bytes);
  // Fills `content` with the bytes that follow. `frame` has the bytes that Begin was given, whole,
  // wherever they lie now. When the last byte of the content was read, the frame must end there,
  // with nothing behind it.
  std::string_view Read(std::span<const std::byte> frame, std::span<std::byte> content);
  // How many bytes of the content were read.
  std::uint64_t position() const { return position_; }

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
  std::uint64_t content_bytes_ = 0;
  std::uint64_t position_ = 0;
  std::size_t taken_ = 0;  // bytes of the frame
};

// Decodes a frame while it is made, piece by piece, to compare what comes out. One instance is used
// by one thread at a time.
class ZstdFrameChecker {
 public:
  using Sink = std::function<void(std::span<const std::byte> content)>;

  ZstdFrameChecker();
  void Begin();
  // Decodes the next bytes of the frame. False where they cannot be decoded.
  bool Add(std::span<const std::byte> frame, const Sink& sink);
  // Whether the frame has ended.
  bool ended() const { return ended_; }

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };
  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
  bool ended_ = false;
};

// The size of its content that a frame says; nothing where it says none, or is no frame.
bool FrameContentBytes(std::span<const std::byte> frame, std::uint64_t& content_bytes);

}  // namespace dsv3::formats
