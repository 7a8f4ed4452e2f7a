#include "formats/npy_writer.h"

#include <bit>
#include <cstddef>
#include <iterator>
#include <limits>
#include <optional>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/npy.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are written as they are");

// The number of elements; throws where the file's length would not fit the offsets of a disk.
std::uint64_t CheckedElements(const Shape& shape, const std::filesystem::path& path) {
  constexpr std::uint64_t kMost =
      (std::numeric_limits<std::int64_t>::max() - (kMaxNpyHeaderBytes + 64)) / sizeof(float);
  const std::optional<std::uint64_t> elements = NumElements(shape);
  if (elements && *elements <= kMost) return *elements;
  throw Error(ErrorCode::kInternal,
              fmt::format("{}: the bytes of an array {} cannot be counted", ShownPath(path),
                          ShapeToString(shape)),
              {.file = path.string(), .tensor = {}});
}

}  // namespace

std::string NpyFloatHeader(const Shape& shape) {
  if (shape.size() > kMaxNpyDimensions) {
    throw Error(ErrorCode::kInternal,
                fmt::format("an array of {} dimensions is to be written", shape.size()));
  }
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    dict += fmt::format("{}{}", i > 0 ? ", " : "", shape[i]);
  }
  dict += shape.size() == 1 ? ",), }" : "), }";
  // NumPy leaves room to rewrite the first dimension in place.
  constexpr std::size_t kMostDigits = 21;
  if (!shape.empty()) dict.append(kMostDigits - fmt::formatted_size("{}", shape[0]), ' ');
  constexpr std::size_t kPreambleBytes = 10;
  constexpr std::size_t kAlignment = 64;
  // One byte is the newline.
  dict.append(kAlignment - (kPreambleBytes + dict.size() + 1) % kAlignment, ' ');
  dict += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dict.size() & 0xFF);
  header += static_cast<char>(dict.size() >> 8);
  return header + dict;
}

NpyWriter::NpyWriter(FileSystem& fs, const std::filesystem::path& path, const Shape& shape)
    : path_(path),
      header_(NpyFloatHeader(shape)),
      num_elements_(CheckedElements(shape, path)),
      file_(fs, WritablePlace(fs, path), header_.size() + num_elements_ * sizeof(float)) {
  file_.file().WriteAt(0, std::as_bytes(std::span(header_)));
}

void NpyWriter::Write(std::uint64_t begin, std::span<const float> values) {
  if (begin > num_elements_ || values.size() > num_elements_ - begin) {
    FailInternal(fmt::format("elements {} to {} are written to an array of {}", begin,
                             begin + values.size(), num_elements_));
  }
  if (values.empty()) return;
  std::uint64_t end = begin + values.size();
  const auto next = written_.lower_bound(begin);
  const bool before = next != written_.begin() && std::prev(next)->second > begin;
  if (before || (next != written_.end() && next->first < end)) {
    FailInternal(fmt::format("some of the elements {} to {} are written twice", begin, end));
  }
  file_.file().WriteAt(header_.size() + begin * sizeof(float), std::as_bytes(values));
  if (next != written_.end() && next->first == end) {
    end = next->second;
    written_.erase(next);
  }
  // One piece with what ends where this one begins.
  const auto after = written_.lower_bound(begin);
  if (after != written_.begin() && std::prev(after)->second == begin) {
    std::prev(after)->second = end;
  } else {
    written_.emplace_hint(after, begin, end);
  }
}

void NpyWriter::Commit() {
  const bool complete =
      num_elements_ == 0 || (written_.size() == 1 && written_.begin()->first == 0 &&
                             written_.begin()->second == num_elements_);
  if (!complete) FailInternal("the array is to be complete, but some elements were not written");
  file_.Commit();
}

void NpyWriter::FailInternal(const std::string& problem) const {
  throw Error(ErrorCode::kInternal, fmt::format("{}: {}", ShownPath(path_), problem),
              {.file = path_.string(), .tensor = {}});
}

}  // namespace dsv3::formats
