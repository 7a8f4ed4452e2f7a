#include "formats/relative_name.h"

#include <algorithm>
#include <cstddef>

namespace dsv3::formats {
namespace {

// Of Linux, in bytes; that of a path counts the NUL at its end.
constexpr std::size_t kLongestComponent = 255;
constexpr std::size_t kLongestPath = 4095;

}  // namespace

std::string_view OutsidePath(std::string_view name) {
  if (name.empty()) return "which is empty";
  if (name[0] == '/') return "which is an absolute path";
  if (name.find('\0') != name.npos) return "which holds a NUL";
  if (name.size() > kLongestPath) return "which is longer than a path can be";
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view component = name.substr(begin, end - begin);
    if (component == "..") return "which leads out of the directory by '..'";
    if (component.empty() || component == ".") return "which has an empty or '.' component";
    if (component.size() > kLongestComponent) return "which is longer than a file name can be";
    begin = end + 1;
  }
  return "";
}

std::string_view UnsafePath(std::string_view name) {
  if (const std::string_view outside = OutsidePath(name); !outside.empty()) return outside;
  const bool letter = (name[0] >= 'a' && name[0] <= 'z') || (name[0] >= 'A' && name[0] <= 'Z');
  if (letter && name.size() > 1 && name[1] == ':') return "which begins with a drive letter";
  for (const char c : name) {
    if (c == '\\') return "which holds a backslash";
    if (static_cast<unsigned char>(c) < 0x20 || c == '\x7F') {
      return "which holds a control character";
    }
  }
  return "";
}

}  // namespace dsv3::formats
