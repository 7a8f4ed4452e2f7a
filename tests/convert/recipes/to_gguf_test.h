#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <variant>

#include "convert/recipes/to_gguf.h"
#include "formats/gguf.h"
#include "formats/gguf_type.h"
#include "tests/convert/recipes/train_to_infer_test.h"

namespace dsv3::testing {

// One to-gguf command for each test.
class ToGgufTest : public TrainToInferTest {
 protected:
  static Conversion Command(const std::filesystem::path& input, const std::filesystem::path& output,
                            formats::GgufType type, convert::ToGgufOptions options = {}) {
    options.type = type;
    return {input, output, convert::ToGgufConversion(options)};
  }

  // Header and the bytes of each tensor.
  struct File {
    formats::GgufHeader header;
    std::map<std::string, std::string> bytes;

    const formats::GgufTensor& Find(const std::string& name) const {
      for (const formats::GgufTensor& tensor : header.tensors) {
        if (tensor.name == name) return tensor;
      }
      throw std::out_of_range(name);
    }
    template <typename T>
    T Key(const std::string& name) const {
      const formats::GgufValue* const value = formats::FindGgufKey(header.keys, name);
      if (value == nullptr) throw std::out_of_range(name);
      return std::get<T>(*value);
    }
  };

  static File ReadGguf(const std::filesystem::path& path) {
    File file;
    file.header = formats::ReadGgufHeader(path, path.filename().string());
    const std::string all = ReadFile(path);
    for (const formats::GgufTensor& tensor : file.header.tensors) {
      file.bytes[tensor.name] =
          all.substr(static_cast<std::size_t>(file.header.data_offset + tensor.offset),
                     static_cast<std::size_t>(tensor.bytes));
    }
    return file;
  }
};

}  // namespace dsv3::testing
