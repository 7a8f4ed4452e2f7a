#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// Composes pickles opcode by opcode, right ones and wrong ones.
namespace dsv3::testing {

class PickleText {
 public:
  explicit PickleText(int protocol = 2) {
    text_ += '\x80';
    text_ += static_cast<char>(protocol);
  }

  // Opcodes without arguments, such as "(" for a mark and "t" for a tuple.
  PickleText& Op(std::string_view opcodes) {
    text_ += opcodes;
    return *this;
  }
  PickleText& Text(std::string_view text) {
    Op("X").Number(text.size(), 4);
    return Op(text);
  }
  PickleText& Int(std::int64_t value) {
    Op("\x8A").Op("\x08");
    return Number(static_cast<std::uint64_t>(value), 8);
  }
  PickleText& Global(std::string_view module, std::string_view name) {
    return Op("c").Op(module).Op("\n").Op(name).Op("\n");
  }
  PickleText& Get(std::uint32_t memo) { return Op("j").Number(memo, 4); }
  PickleText& Put(std::uint32_t memo) { return Op("r").Number(memo, 4); }
  PickleText& Number(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) text_ += static_cast<char>(value >> (8 * i) & 0xFF);
    return *this;
  }
  // A tuple, or a torch.Size, of integers.
  template <typename Values>
  PickleText& Tuple(const Values& values) {
    Op("(");
    for (const auto value : values) Int(static_cast<std::int64_t>(value));
    return Op("t");
  }
  template <typename Values>
  PickleText& Size(const Values& values) {
    return Global("torch", "Size").Tuple(values).Op("\x85R");
  }

  // The pickle so far, and whole.
  const std::string& text() const { return text_; }
  std::string Stop() const { return text_ + "."; }

 private:
  std::string text_;
};

}  // namespace dsv3::testing
