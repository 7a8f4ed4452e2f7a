#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "formats/io/file_system.h"
#include "formats/npy_writer.h"
#include "formats/shape.h"

// An internal part of forward.h.
namespace dsv3::convert {

// An array that is written while the model runs.
class ArrayOutput {
 public:
  ArrayOutput() = default;
  ArrayOutput(formats::FileSystem& fs, const std::filesystem::path& path,
              const formats::Shape& shape) {
    if (!path.empty()) writer_ = std::make_unique<formats::NpyWriter>(fs, path, shape);
  }

  explicit operator bool() const { return writer_ != nullptr; }
  void Write(std::uint64_t first, std::span<const float> values) {
    if (writer_) writer_->Write(first, values);
  }
  void Commit() {
    if (writer_) writer_->Commit();
  }

 private:
  std::unique_ptr<formats::NpyWriter> writer_;
};

}  // namespace dsv3::convert
