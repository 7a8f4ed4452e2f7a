#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "formats/finding.h"

namespace dsv3::convert {

// An error of a file, or of one tensor in it.
inline formats::Finding FileFault(std::string_view kind, std::string_view file, std::string message,
                                  std::string_view tensor = {}) {
  return {.severity = formats::Severity::kError,
          .kind = std::string(kind),
          .file = std::string(file),
          .tensor = std::string(tensor),
          .message = std::move(message),
          .unreadable = false};
}

}  // namespace dsv3::convert
