#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/io/input_file.h"
#include "tests/support/files.h"
#include "tests/support/temp_dir.h"

namespace dsv3::testing {

// The bytes of a .npy file with this dict and these bytes of elements, without padding.
inline std::string NpyText(std::string_view dict, std::string_view data = "", char major = 1) {
  std::string text = "\x93NUMPY";
  text += major;
  text += '\0';
  for (std::size_t i = 0; i < (major == 1 ? 2U : 4U); ++i) {
    text += static_cast<char>(dict.size() >> 8 * i & 0xFF);
  }
  return text.append(dict).append(data);
}

inline std::string NpyDict(std::string_view descr, std::string_view shape, bool fortran = false) {
  return std::string("{'descr': '")
      .append(descr)
      .append("', 'fortran_order': ")
      .append(fortran ? "True" : "False")
      .append(", 'shape': ")
      .append(shape)
      .append(", }\n");
}

// A file "a.npy" that holds `content`.
class NpyFile {
 public:
  explicit NpyFile(std::string_view content) { WriteFile(dir_ / "a.npy", content); }
  formats::InputFile Open() const { return {dir_ / "a.npy", "a.npy", formats::DirectIo::kNever}; }

 private:
  TempDir dir_;
};

}  // namespace dsv3::testing
