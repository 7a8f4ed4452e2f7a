#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dsv3::formats {

// The alignment of addresses, offsets and lengths that suffices for O_DIRECT on every file system
// that we know.
inline constexpr std::size_t kDirectAlignment = 4096;

constexpr std::uint64_t AlignDown(std::uint64_t value, std::uint64_t alignment) {
  return value / alignment * alignment;
}
constexpr std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return AlignDown(value + alignment - 1, alignment);
}

// Memory aligned for O_DIRECT, not initialised. Throws std::bad_alloc.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes);
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> span() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace dsv3::formats
