#include "formats/gguf_writer.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string_view>
#include <type_traits>
#include <variant>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are appended as they are");

[[noreturn]] void Fail(const std::string& tensor, const std::string& message) {
  throw Error(ErrorCode::kBadInput, message, {"", tensor});
}

template <typename Number>
void AppendNumber(Number number, std::string& to) {
  to.append(reinterpret_cast<const char*>(&number), sizeof number);
}

void AppendText(std::string_view text, std::string& to) {
  AppendNumber(std::uint64_t{text.size()}, to);
  to.append(text);
}

template <typename T>
void AppendElement(const T& element, std::string& to) {
  if constexpr (std::is_same_v<T, std::string>) {
    AppendText(element, to);
  } else if constexpr (std::is_same_v<T, bool>) {
    to += element ? '\1' : '\0';
  } else {
    AppendNumber(element, to);
  }
}

template <typename T>
void AppendValue(const T& value, std::uint32_t kind, std::string& to) {
  AppendNumber(kind, to);
  AppendElement(value, to);
}

template <typename T>
void AppendValue(const std::vector<T>& values, std::uint32_t kind, std::string& to) {
  AppendNumber(kGgufArrayKind, to);
  AppendNumber(kind, to);
  AppendNumber(std::uint64_t{values.size()}, to);
  for (const T value : values) AppendElement(value, to);
}

void AppendValue(const std::vector<std::string>& values, std::uint32_t kind, std::string& to) {
  AppendNumber(kGgufArrayKind, to);
  AppendNumber(kind, to);
  AppendNumber(std::uint64_t{values.size()}, to);
  for (const std::string& value : values) AppendText(value, to);
}

void AppendTensor(const GgufTensor& tensor, std::string& to) {
  AppendText(tensor.name, to);
  AppendNumber(static_cast<std::uint32_t>(tensor.shape.size()), to);
  for (std::size_t i = tensor.shape.size(); i-- > 0;) AppendNumber(tensor.shape[i], to);
  AppendNumber(static_cast<std::uint32_t>(tensor.type), to);
  AppendNumber(tensor.offset, to);
}

void CheckKeys(const GgufKeys& keys) {
  std::set<std::string_view> names;
  for (const auto& [key, value] : keys) {
    if (key.empty() || key.size() > kMaxGgufKeyBytes || !names.insert(key).second) {
      Fail("", fmt::format("a GGUF file cannot have the key {}: keys are not empty, have at most "
                           "{} and come once",
                           QuoteForMessage(key), ExactBytes(kMaxGgufKeyBytes)));
    }
  }
}

void CheckTensors(const std::vector<GgufTensor>& tensors) {
  std::set<std::string_view> names;
  for (const GgufTensor& tensor : tensors) {
    const std::string subject = fmt::format("tensor {}", QuoteForMessage(tensor.name));
    if (tensor.name.size() > kMaxGgufNameBytes) {
      Fail(tensor.name, fmt::format("{}: the name has {}, and a GGUF file takes names of at most "
                                    "{}; give the tensor a shorter name",
                                    subject, ExactBytes(tensor.name.size()), kMaxGgufNameBytes));
    }
    if (tensor.shape.size() > kMaxGgufDimensions) {
      Fail(tensor.name, fmt::format("{} has the shape {}, and a GGUF file takes at most {} "
                                    "dimensions",
                                    subject, ShapeToString(tensor.shape), kMaxGgufDimensions));
    }
    if (!names.insert(tensor.name).second) {
      Fail(tensor.name, fmt::format("{} would be in the GGUF file twice", subject));
    }
  }
}

}  // namespace

void LayOutGgufTensors(std::vector<GgufTensor>& tensors) {
  std::uint64_t end = 0;
  for (GgufTensor& tensor : tensors) {
    const std::optional<std::uint64_t> bytes = GgufNumBytes(tensor.type, tensor.shape);
    tensor.offset = AlignUp(end, kGgufAlignment);
    if (!bytes || __builtin_add_overflow(tensor.offset, *bytes, &end) ||
        end > UINT64_MAX - kGgufAlignment) {
      throw Error(ErrorCode::kInternal,
                  fmt::format("the bytes of tensor {}, {} {}, cannot be counted",
                              QuoteForMessage(tensor.name), GgufTypeInfoOf(tensor.type).name,
                              ShapeToString(tensor.shape)),
                  {"", tensor.name});
    }
    tensor.bytes = *bytes;
  }
}

std::string SerializeGgufHeader(const GgufKeys& keys, const std::vector<GgufTensor>& tensors) {
  CheckKeys(keys);
  CheckTensors(tensors);
  std::string text = "GGUF";
  AppendNumber(std::uint32_t{3}, text);
  AppendNumber(std::uint64_t{tensors.size()}, text);
  AppendNumber(std::uint64_t{keys.size()}, text);
  constexpr std::size_t kScalars = std::size(kGgufValueKinds);
  for (const auto& [key, value] : keys) {
    AppendText(key, text);
    const std::uint32_t kind = kGgufValueKinds[value.index() % kScalars];
    std::visit([&](const auto& held) { AppendValue(held, kind, text); }, value);
  }
  for (const GgufTensor& tensor : tensors) AppendTensor(tensor, text);
  text.resize(AlignUp(text.size(), kGgufAlignment), '\0');
  if (text.size() > kMaxGgufHeaderBytes) {
    Fail("", fmt::format("the keys and names of this GGUF file need {}, and readers take {}",
                         ExactBytes(text.size()), ExactBytes(kMaxGgufHeaderBytes)));
  }
  return text;
}

}  // namespace dsv3::formats
