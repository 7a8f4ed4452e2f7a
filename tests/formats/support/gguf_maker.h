#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "tests/support/files.h"

namespace dsv3::testing {

// A sound GGUF file of keys, and tensors with their bytes.
struct GgufMaker {
  formats::GgufKeys keys;
  std::vector<formats::GgufTensor> tensors;
  std::vector<std::string> bytes;  // of each tensor

  explicit GgufMaker(std::string architecture = "deepseek2") {
    keys.emplace_back("general.architecture", std::move(architecture));
  }

  // Without `content`, zeros.
  GgufMaker& Add(std::string name, formats::GgufType type, formats::Shape shape,
                 std::string content = {}) {
    content.resize(static_cast<std::size_t>(formats::GgufNumBytes(type, shape).value()), '\0');
    tensors.push_back({std::move(name), type, std::move(shape), 0, 0});
    bytes.push_back(std::move(content));
    return *this;
  }
  GgufMaker& Key(std::string key, formats::GgufValue value) {
    keys.emplace_back(std::move(key), std::move(value));
    return *this;
  }

  void Write(const std::filesystem::path& path) {
    formats::LayOutGgufTensors(tensors);
    const std::string header = formats::SerializeGgufHeader(keys, tensors);
    std::string content = header;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      content.resize(header.size() + static_cast<std::size_t>(tensors[i].offset), '\0');
      content += bytes[i];
    }
    WriteFile(path, content);
  }
};

}  // namespace dsv3::testing
