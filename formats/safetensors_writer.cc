#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"
#include "formats/safetensors.h"

namespace dsv3::formats {

static_assert(std::endian::native == std::endian::little, "the header's length is copied as it is");

void LayOutTensors(std::vector<SafetensorsTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
            });
  std::uint64_t offset = 0;
  for (SafetensorsTensor& tensor : tensors) {
    const std::optional<std::uint64_t> bytes = NumBytes(tensor.dtype, tensor.shape);
    tensor.begin = offset;
    if (!bytes || __builtin_add_overflow(offset, *bytes, &tensor.end)) {
      throw Error(ErrorCode::kInternal,
                  fmt::format("the bytes of tensor {}, {} {}, cannot be counted",
                              QuoteForMessage(tensor.name), DtypeName(tensor.dtype),
                              ShapeToString(tensor.shape)),
                  {.file = {}, .tensor = tensor.name});
    }
    offset = tensor.end;
  }
}

std::string SerializeSafetensorsHeader(const std::vector<SafetensorsTensor>& tensors,
                                       const SafetensorsMetadata& metadata) {
  constexpr std::size_t kLengthBytes = 8;
  JsonWriter json(0);
  json.BeginObject();
  if (!metadata.empty()) {
    json.BeginObject("__metadata__");
    for (const auto& [key, value] : metadata) {
      json.String(key, value);
    }
    json.EndObject();
  }
  for (const SafetensorsTensor& tensor : tensors) {
    json.BeginObject(tensor.name);
    json.String("dtype", DtypeName(tensor.dtype));
    json.Uints("shape", tensor.shape);
    json.Uints("data_offsets", {tensor.begin, tensor.end});
    json.EndObject();
  }
  json.EndObject();
  std::string text = json.Take();
  const std::uint64_t padded = (text.size() + kLengthBytes - 1) / kLengthBytes * kLengthBytes;
  if (padded > kMaxSafetensorsHeaderBytes) {
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("a file of {} tensors needs a header of {}, the format allows "
                    "{}; spread the tensors over more files",
                    tensors.size(), ExactBytes(padded), ExactBytes(kMaxSafetensorsHeaderBytes)));
  }
  text.resize(padded, ' ');
  std::string length(kLengthBytes, '\0');
  std::memcpy(length.data(), &padded, kLengthBytes);
  return length + text;
}

}  // namespace dsv3::formats
