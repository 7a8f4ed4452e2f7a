#include "formats/io/aligned_buffer.h"

#include <new>
#include <utility>

namespace dsv3::formats {

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes > 0) {
    data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kDirectAlignment}));
  }
}

AlignedBuffer::~AlignedBuffer() { ::operator delete (data_, std::align_val_t{kDirectAlignment}); }

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  AlignedBuffer taken(std::move(other));
  std::swap(data_, taken.data_);
  std::swap(size_, taken.size_);
  return *this;
}

}  // namespace dsv3::formats
