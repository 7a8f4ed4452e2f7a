#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::testing {

// The bytes of a GGUF file's header, put together one by one, right or wrong.
class GgufText {
 public:
  explicit GgufText(std::uint32_t version = 3) {
    text_ = "GGUF";
    U32(version);
  }

  const std::string& text() const { return text_; }

  GgufText& U32(std::uint32_t value) { return Append(&value, sizeof value); }
  GgufText& U64(std::uint64_t value) { return Append(&value, sizeof value); }
  GgufText& Text(std::string_view value) {
    U64(value.size());
    text_.append(value);
    return *this;
  }
  GgufText& Counts(std::uint64_t tensors, std::uint64_t keys) { return U64(tensors).U64(keys); }
  // A key without its value.
  GgufText& Key(std::string_view key, std::uint32_t kind) { return Text(key).U32(kind); }
  // Dimensions as the file has them, the innermost first.
  GgufText& Tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions,
                   std::uint32_t type, std::uint64_t offset) {
    Text(name).U32(static_cast<std::uint32_t>(dimensions.size()));
    for (const std::uint64_t dimension : dimensions) U64(dimension);
    return U32(type).U64(offset);
  }
  GgufText& Pad(std::size_t alignment = 32) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }

 private:
  GgufText& Append(const void* bytes, std::size_t size) {
    text_.append(static_cast<const char*>(bytes), size);
    return *this;
  }

  std::string text_;
};

}  // namespace dsv3::testing
