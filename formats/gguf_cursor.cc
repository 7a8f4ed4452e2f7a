#include "formats/gguf_cursor.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <span>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/gguf.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

constexpr std::uint64_t kLeastRead = 1 << 16;

// What an element of an array has at least in the file.
template <typename T>
constexpr std::uint64_t kLeastBytes = sizeof(T);
template <>
constexpr std::uint64_t kLeastBytes<std::string> = 8;

}  // namespace

std::uint64_t GgufCursor::remaining() const { return file_.bytes() - position_; }

void GgufCursor::Fail(std::string_view problem, std::string_view advice) const {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}{}{}; {}", ShownPath(file_.name()), subject_,
                          subject_.empty() ? "" : ": ", problem, advice),
              {file_.name(), tensor_});
}

void GgufCursor::Need(std::uint64_t bytes, std::string_view what) {
  if (bytes <= bytes_.size() - position_) return;
  if (bytes > remaining()) {
    Fail(fmt::format("the file ends within its header: {} at byte {} needs {}, and the file has {}",
                     what, position_, ExactBytes(bytes), ExactBytes(file_.bytes())),
         "the download was cut off, continue it or download it again");
  }
  const std::uint64_t end = position_ + bytes;
  if (end > kMaxGgufHeaderBytes) {
    Fail(fmt::format("{} at byte {} needs {}, and a header of more than {} is not read", what,
                     position_, ExactBytes(bytes), ExactBytes(kMaxGgufHeaderBytes)));
  }
  const std::uint64_t have = bytes_.size();
  const std::uint64_t wanted = std::min(file_.bytes(), std::max({end, 2 * have, kLeastRead}));
  bytes_.resize(static_cast<std::size_t>(wanted));
  file_.ReadAt(have, std::as_writable_bytes(std::span(bytes_)).subspan(have));
}

std::string GgufCursor::TakeText(std::string_view what, std::uint64_t most) {
  const auto length = Take<std::uint64_t>(fmt::format("the length of {}", what));
  if (length > most) {
    Fail(fmt::format("{} has {}, and the format allows {}", what, ExactBytes(length),
                     ExactBytes(most)));
  }
  Need(length, what);
  std::string text =
      bytes_.substr(static_cast<std::size_t>(position_), static_cast<std::size_t>(length));
  position_ += length;
  return text;
}

std::uint64_t GgufCursor::TakeCount(std::string_view what, std::uint64_t least_bytes) {
  const auto count = Take<std::uint64_t>(what);
  const std::uint64_t room = std::min(remaining(), kMaxGgufHeaderBytes) / least_bytes;
  if (count > room) {
    Fail(fmt::format("{} is {}, and the {} behind it hold at most {}", what, ShownCount(count),
                     ExactBytes(remaining()), ShownCount(room)));
  }
  return count;
}

void GgufCursor::SkipTo(std::uint64_t end, std::string_view what) {
  Need(end - position_, what);
  position_ = end;
}

template <typename T>
T GgufCursor::TakeElement() {
  if constexpr (std::is_same_v<T, std::string>) {
    return TakeText("the value");
  } else if constexpr (std::is_same_v<T, bool>) {
    const auto byte = Take<std::uint8_t>("the value");
    if (byte > 1) Fail(fmt::format("the byte {} is not a bool: 0 or 1", byte));
    return byte == 1;
  } else {
    return Take<T>("the value");
  }
}

template <typename T>
std::vector<T> GgufCursor::TakeArray() {
  const std::uint64_t count = TakeCount("the number of elements", kLeastBytes<T>);
  std::vector<T> values;
  values.reserve(static_cast<std::size_t>(count));
  for (std::uint64_t i = 0; i < count; ++i) values.push_back(TakeElement<T>());
  return values;
}

template <std::size_t kIndex>
GgufValue GgufCursor::TakeOfKind(std::uint32_t kind, bool array) {
  if constexpr (kIndex < std::size(kGgufValueKinds)) {
    if (kind != kGgufValueKinds[kIndex]) return TakeOfKind<kIndex + 1>(kind, array);
    using T = std::variant_alternative_t<kIndex, GgufValue>;
    if (array) return TakeArray<T>();
    return TakeElement<T>();
  } else {
    if (kind == kGgufArrayKind)
      Fail("arrays of arrays are not read", "llama.cpp refuses them, too");
    Fail(fmt::format("its value has the kind {}, and the format has 0 to 12", kind));
  }
}

GgufValue GgufCursor::TakeValue() {
  const auto kind = Take<std::uint32_t>("the kind of the value");
  if (kind != kGgufArrayKind) return TakeOfKind(kind, false);
  return TakeOfKind(Take<std::uint32_t>("the kind of the elements"), true);
}

}  // namespace dsv3::formats
