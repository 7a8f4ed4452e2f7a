#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dsv3::convert {

// Appends to a name for as long as it lives: one buffer serves all names of a model, since building
// tens of thousands of strings would take longer than looking the tensors up.
class NameScope {
 public:
  NameScope(std::string& name, std::string_view part) : name_(name), size_(name.size()) {
    name_ += part;
  }
  // "layers.", 3 appends "layers.3.".
  NameScope(std::string& name, std::string_view part, std::uint64_t number)
      : NameScope(name, part) {
    char digits[24];
    const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
    name_.append(digits, end);
    name_ += '.';
  }
  ~NameScope() { name_.resize(size_); }
  NameScope(const NameScope&) = delete;
  NameScope& operator=(const NameScope&) = delete;

 private:
  std::string& name_;
  std::size_t size_;
};

}  // namespace dsv3::convert
