#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "formats/dtype.h"
#include "formats/io/input_file.h"
#include "formats/npy.h"
#include "formats/shape.h"

// Module outputs that another program wrote; an internal part of forward.h.
namespace dsv3::convert {

// A safetensors file, or an array in NumPy's format, which has the logits: its name is "lm_head".
class DumpFile {
 public:
  struct Tensor {
    std::string name;
    formats::Dtype dtype = formats::Dtype::kF32;  // of an array of doubles kF32: it is read so
    formats::Shape shape;
    std::uint64_t offset = 0;  // in the file
  };

  // Throws Error: kBadInput for a file that is missing or damaged, and for an array that is not of
  // floats; kIo.
  explicit DumpFile(const std::filesystem::path& path);

  const std::string& name() const { return file_.name(); }  // for messages
  const std::vector<Tensor>& tensors() const { return tensors_; }

  // Elements [begin, begin + out.size()) of a tensor of F32, BF16 or F16. Several threads may read.
  // Throws Error (kBadInput, kIo).
  void Read(const Tensor& tensor, std::uint64_t begin, std::span<float> out) const;

 private:
  formats::InputFile file_;
  bool is_array_;
  formats::NpyHeader array_;
  std::vector<Tensor> tensors_;
};

}  // namespace dsv3::convert
