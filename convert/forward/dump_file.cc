#include "convert/forward/dump_file.h"

#include <utility>

#include "formats/message_text.h"
#include "formats/npy_elements.h"
#include "formats/safetensors.h"
#include "quant/statistics.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;

quant::StoredFloat StoredFormOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBF16:
      return quant::StoredFloat::kBF16;
    case Dtype::kF16:
      return quant::StoredFloat::kF16;
    default:
      return quant::StoredFloat::kF32;
  }
}

}  // namespace

DumpFile::DumpFile(const std::filesystem::path& path)
    : file_(path, formats::ShownPath(path)), is_array_(formats::IsNpy(file_)) {
  if (is_array_) {
    array_ = formats::ReadNpyHeader(file_);
    if (array_.kind != formats::NpyKind::kFloat) {
      formats::FailNpy(file_, "the array has no floats", "write the logits as float32 or float16");
    }
    const Dtype dtype = array_.element_bytes == 2 ? Dtype::kF16 : Dtype::kF32;
    tensors_.push_back({"lm_head", dtype, array_.shape, 0});
    return;
  }
  formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(file_);
  for (formats::SafetensorsTensor& tensor : header.tensors) {
    tensors_.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape),
                        header.data_offset + tensor.begin});
  }
}

void DumpFile::Read(const Tensor& tensor, std::uint64_t begin, std::span<float> out) const {
  if (is_array_) return formats::ReadNpyFloats(file_, array_, begin, out);
  const quant::StoredFloat form = StoredFormOf(tensor.dtype);
  const std::size_t width = quant::ElementBytes(form);
  std::vector<std::byte> bytes(out.size() * width);
  file_.ReadAt(tensor.offset + begin * width, bytes);
  quant::DecodeFloats(form, bytes, out.data());
}

}  // namespace dsv3::convert
