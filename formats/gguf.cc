#include "formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/gguf_cursor.h"
#include "formats/hash/xxh3.h"
#include "formats/io/aligned_buffer.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"
#include "formats/name_table.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kMagic = "GGUF";
// The least that a key and a tensor have in the header: an empty text, a kind and a byte; a name,
// the number of dimensions, a type and an offset.
constexpr std::uint64_t kLeastKeyBytes = 8 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;

// Reads the header of one file.
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file) : file_(file), cursor_(file) {}

  GgufHeader Read() {
    ReadMagic();
    ReadVersion();
    const std::uint64_t tensors = cursor_.TakeCount("the number of tensors", kLeastTensorBytes);
    const std::uint64_t keys = cursor_.TakeCount("the number of keys", kLeastKeyBytes);
    ReadKeys(keys);
    ReadAlignment();
    header_.tensors.reserve(static_cast<std::size_t>(tensors));
    for (std::uint64_t i = 0; i < tensors; ++i) ReadTensor();
    cursor_.SetSubject("");
    RejectDuplicates(
        header_.tensors.size(),
        [&](std::uint32_t i) -> std::string_view { return header_.tensors[i].name; }, "tensor");
    FindData();
    CheckPlaces();
    header_.file_bytes = file_.bytes();
    header_.digest = Xxh3Hex(std::as_bytes(std::span(cursor_.read()))
                                 .first(static_cast<std::size_t>(header_.data_offset)));
    return std::move(header_);
  }

 private:
  void ReadMagic() {
    if (file_.bytes() == 0) cursor_.Fail("the file is empty", "download it again");
    if (file_.bytes() >= kMagic.size()) cursor_.SkipTo(kMagic.size(), "the magic");
    if (cursor_.read().starts_with(kMagic)) return;
    const std::string_view foreign = DescribeForeignFile(cursor_.read());
    if (!foreign.empty()) {
      throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", ShownPath(file_.name()), foreign),
                  {file_.name(), ""});
    }
    cursor_.Fail("the file does not begin with GGUF, so it is not a GGUF file",
                 "give a GGUF file, or download it again");
  }

  void ReadVersion() {
    header_.version = cursor_.Take<std::uint32_t>("the version");
    if (header_.version == 2 || header_.version == 3) return;
    if ((header_.version & 0xFFFF) == 0) {
      cursor_.Fail("the file's numbers are big-endian, and only little-endian files are read",
                   "convert it with llama.cpp's gguf_convert_endian.py");
    }
    cursor_.Fail(
        fmt::format("the file has version {} of the format, and 2 and 3 are read", header_.version),
        "the file is damaged, or made for another version of the format");
  }

  void ReadKeys(std::uint64_t count) {
    GgufKeys& keys = header_.keys;
    keys.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      cursor_.SetSubject(fmt::format("key {} of {}", i + 1, count));
      std::string key = cursor_.TakeText("the key", kMaxGgufKeyBytes);
      if (key.empty()) cursor_.Fail("the key is empty");
      cursor_.SetSubject(fmt::format("key {}", QuoteForMessage(key)));
      GgufValue value = cursor_.TakeValue();
      keys.emplace_back(std::move(key), std::move(value));
    }
    cursor_.SetSubject("");
    RejectDuplicates(
        keys.size(), [&](std::uint32_t i) -> std::string_view { return keys[i].first; }, "key");
  }

  void ReadAlignment() {
    const GgufValue* const value = FindGgufKey(header_.keys, kGgufAlignmentKey);
    if (value == nullptr) return;
    const auto* const alignment = std::get_if<std::uint32_t>(value);
    if (alignment == nullptr || !std::has_single_bit(*alignment)) {
      cursor_.SetSubject(fmt::format("key '{}'", kGgufAlignmentKey));
      cursor_.Fail(alignment == nullptr ? "its value is not a 32-bit unsigned number"
                                        : fmt::format("{} is not a power of two", *alignment));
    }
    header_.alignment = *alignment;
  }

  void ReadTensor() {
    cursor_.SetSubject(fmt::format("tensor {} of the header", header_.tensors.size() + 1));
    GgufTensor tensor;
    tensor.name = cursor_.TakeText("the name", kMaxGgufNameBytes);
    cursor_.SetSubject(fmt::format("tensor {}", QuoteForMessage(tensor.name)), tensor.name);
    const auto dimensions = cursor_.Take<std::uint32_t>("the number of dimensions");
    if (dimensions > kMaxGgufDimensions) {
      cursor_.Fail(fmt::format("it has {} dimensions, and the format allows {}", dimensions,
                               kMaxGgufDimensions));
    }
    tensor.shape.resize(dimensions);
    for (std::uint32_t i = dimensions; i-- > 0;) {
      tensor.shape[i] = cursor_.Take<std::uint64_t>("a dimension");
    }
    const auto type = cursor_.Take<std::uint32_t>("the type");
    const GgufTypeInfo* const info = FindGgufType(type);
    if (info == nullptr) {
      cursor_.Fail(fmt::format("it has the unknown type {}", type),
                   "the file is damaged, or made for another version of the format");
    }
    tensor.type = info->type;
    tensor.offset = cursor_.Take<std::uint64_t>("the offset");
    const std::optional<std::uint64_t> bytes = GgufNumBytes(tensor.type, tensor.shape);
    if (!bytes) {
      const std::uint64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
      cursor_.Fail(row % info->block_elements != 0
                       ? fmt::format("it is {} {}, and rows of {} elements are not whole blocks "
                                     "of {}",
                                     info->name, ShapeToString(tensor.shape), row,
                                     info->block_elements)
                       : fmt::format("it is {} {}, whose size overflows 64 bits", info->name,
                                     ShapeToString(tensor.shape)));
    }
    tensor.bytes = *bytes;
    header_.tensors.push_back(std::move(tensor));
  }

  template <typename NameAt>
  void RejectDuplicates(std::size_t count, const NameAt& name_at, std::string_view what) {
    NameTable names(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      if (names.Add(i, HashName(name_at(i)), name_at) == NameTable::kNone) continue;
      cursor_.SetSubject(fmt::format("{} {}", what, QuoteForMessage(name_at(i))),
                         what == "tensor" ? std::string(name_at(i)) : "");
      cursor_.Fail("it comes twice in the header, so it is not clear which one is meant");
    }
  }

  // A file without data may end without the padding.
  void FindData() {
    header_.data_offset = AlignUp(cursor_.position(), header_.alignment);
    if (header_.tensors.empty()) {
      header_.data_offset = std::min(header_.data_offset, file_.bytes());
    }
    cursor_.SkipTo(header_.data_offset, "the padding before the data");
  }

  void CheckPlaces() {
    const std::uint64_t data_bytes = file_.bytes() - header_.data_offset;
    const GgufTensor* previous = nullptr;
    std::uint64_t end = 0;
    for (const GgufTensor& tensor : header_.tensors) {
      cursor_.SetSubject(fmt::format("tensor {}", QuoteForMessage(tensor.name)), tensor.name);
      if (tensor.offset % header_.alignment != 0) {
        cursor_.Fail(
            fmt::format("it begins at byte {} of the data, which is not a multiple of the "
                        "alignment, {}",
                        tensor.offset, header_.alignment));
      }
      if (tensor.offset < end) {
        cursor_.Fail(
            fmt::format("it begins at byte {} of the data, within the bytes [{}, {}) of "
                        "tensor {}",
                        tensor.offset, previous->offset, end, QuoteForMessage(previous->name)));
      }
      if (tensor.offset - end >= header_.alignment) {
        cursor_.Fail(
            fmt::format("it begins at byte {} of the data, and what is before it ends at "
                        "byte {}: the bytes between them belong to no tensor",
                        tensor.offset, end));
      }
      if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
        cursor_.Fail(fmt::format("the file is truncated: the tensor has {} from byte {} of the "
                                 "data on, and the file has {} of data",
                                 ExactBytes(tensor.bytes), tensor.offset, ExactBytes(data_bytes)),
                     "the download was cut off, continue it or download it again");
      }
      end = tensor.offset + tensor.bytes;
      previous = &tensor;
    }
    cursor_.SetSubject("");
    if (data_bytes - end >= header_.alignment) {
      cursor_.Fail(
          fmt::format("the file has {} behind its last tensor, more than the alignment "
                      "explains",
                      ExactBytes(data_bytes - end)));
    }
  }

  const InputFile& file_;
  GgufCursor cursor_;
  GgufHeader header_;
};

}  // namespace

const GgufValue* FindGgufKey(const GgufKeys& keys, std::string_view key) {
  const auto found =
      std::find_if(keys.begin(), keys.end(), [&](const auto& entry) { return entry.first == key; });
  return found == keys.end() ? nullptr : &found->second;
}

GgufHeader ReadGgufHeader(const InputFile& file) { return HeaderReader(file).Read(); }

GgufHeader ReadGgufHeader(const std::filesystem::path& path, const std::string& name) {
  return ReadGgufHeader(InputFile(path, name));
}

}  // namespace dsv3::formats
