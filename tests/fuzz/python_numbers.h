#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// The text with [] in place of each NaN, Infinity and -Infinity outside strings: strict JSON where
// it was JSON as Python writes it, and not JSON where it was not.
inline std::string WithoutPythonNumbers(std::string_view text) {
  std::string strict;
  bool in_string = false;
  while (!text.empty()) {
    std::size_t length = 1;
    if (in_string) {
      if (text[0] == '\\' && text.size() > 1) length = 2;
      if (text[0] == '"') in_string = false;
    } else if (text[0] == '"') {
      in_string = true;
    } else {
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (!text.starts_with(word)) continue;
        strict += "[]";
        text.remove_prefix(word.size());
        length = 0;
        break;
      }
    }
    strict += text.substr(0, length);
    text.remove_prefix(length);
  }
  return strict;
}
