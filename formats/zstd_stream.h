#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

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
// bytes claim is never believed: memory is a window of kMostWindowBytes at most, and a piece of the
// frame. A fault is returned as what is wrong; empty when all is well. One instance is used by one
// thread at a time.
class ZstdStreamDecoder {
 public:
  static constexpr unsigned kMostWindowLog = 24;
  static constexpr std::size_t kMostWindowBytes = std::size_t{1} << kMostWindowLog;

  // Fills `out` with the frame's bytes from `offset` on; all of them lie in the frame. What it
  // throws passes through Begin, Read and SkipTo.
  using Source = std::function<void(std::uint64_t offset, std::span<std::byte> out)>;

  ZstdStreamDecoder();

  // Begins with a frame of `frame_bytes`, which must say what it holds and need no dictionary.
  std::string_view Begin(Source source, std::uint64_t frame_bytes);
  // How many bytes the frame says that it holds.
  std::uint64_t content_bytes() const { return content_bytes_; }
  // Fills `content` with the bytes that follow; these are in what the frame says that it holds.
  // When the last byte of the content was read, the frame must end there, with nothing behind it.
  std::string_view Read(std::span<std::byte> content);
  // Passes over the bytes before `position`, which is not before position().
  std::string_view SkipTo(std::uint64_t position);
  // How many bytes of the content were read.
  std::uint64_t position() const { return position_; }

 private:
  struct Free {
    void operator()(ZSTD_DCtx_s* context) const;
  };

  // Gets the next piece of the frame where there is one.
  void Refill();

  std::unique_ptr<ZSTD_DCtx_s, Free> context_;
  Source source_;
  std::uint64_t frame_bytes_ = 0;
  std::uint64_t fetched_ = 0;     // bytes of the frame
  std::vector<std::byte> piece_;  // the last of them
  std::size_t taken_ = 0;         // bytes of the piece
  std::uint64_t content_bytes_ = 0;
  std::uint64_t position_ = 0;
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

}  // namespace dsv3::formats
