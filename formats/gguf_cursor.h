#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "formats/gguf_value.h"

// The numbers and texts of a GGUF header, one behind the other; an internal part of the reader in
// gguf.h.
namespace dsv3::formats {

class InputFile;

// Reads a file from its beginning, as far as it is asked to, and keeps what it has read.
class GgufCursor {
 public:
  explicit GgufCursor(const InputFile& file) : file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const;  // bytes of the file behind the position
  std::string_view read() const { return bytes_; }

  // `what` names the value for messages: "the number of tensors". The tensor or key that it is of
  // is that of SetSubject. Throw Error (kBadInput) where the file or the largest header ends.
  template <typename Number>
  Number Take(std::string_view what) {
    static_assert(std::is_arithmetic_v<Number> && !std::is_same_v<Number, bool>);
    Need(sizeof(Number), what);
    Number number;
    std::memcpy(&number, bytes_.data() + position_, sizeof number);
    position_ += sizeof number;
    return number;
  }
  // A text of at most `most` bytes.
  std::string TakeText(std::string_view what, std::uint64_t most = UINT64_MAX);
  // A value of a key, with its kind.
  GgufValue TakeValue();
  // A number of things of at least `least_bytes` each, which the rest of the file must be able to
  // hold.
  std::uint64_t TakeCount(std::string_view what, std::uint64_t least_bytes);
  // Reads up to `end`.
  void SkipTo(std::uint64_t end, std::string_view what);

  // For messages: "tensor 'a'", "key 'b'"; empty: the header itself.
  void SetSubject(std::string subject, std::string tensor = {}) {
    subject_ = std::move(subject);
    tensor_ = std::move(tensor);
  }
  // "FILE: SUBJECT: PROBLEM; ADVICE".
  [[noreturn]] void Fail(std::string_view problem,
                         std::string_view advice = "the file is damaged, download it again") const;

 private:
  void Need(std::uint64_t bytes, std::string_view what);
  template <typename T>
  T TakeElement();
  template <typename T>
  std::vector<T> TakeArray();
  template <std::size_t kIndex = 0>
  GgufValue TakeOfKind(std::uint32_t kind, bool array);

  const InputFile& file_;
  std::string bytes_;
  std::uint64_t position_ = 0;
  std::string subject_;
  std::string tensor_;
};

}  // namespace dsv3::formats
