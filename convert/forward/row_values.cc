#include "convert/forward/row_values.h"

#include <algorithm>
#include <cstring>

#include "convert/forward/columns.h"
#include "quant/statistics.h"

namespace dsv3::convert {

void WeightPanel::CopyTo(float* out, std::size_t count) const {
  if (floats != nullptr) {
    std::copy_n(floats, count, out);
  } else {
    quant::DecodeFloats(quant::StoredFloat::kBF16, std::as_bytes(std::span(bf16, count)), out);
  }
}

void RowValues::Make(const Catalog& catalog, const ScaleMap& scales, const TensorRows& rows,
                     std::span<const std::span<const std::byte>> inputs, WeightValues values) {
  const ValueReader reader(catalog, rows.tensor, scales);
  const std::uint64_t first = rows.first * rows.cols;
  const std::uint64_t last = rows.end * rows.cols;
  const std::span<const std::byte> bytes = inputs[0];
  const auto count = static_cast<std::size_t>(last - first);
  panel_ = {};
  if (!reader.scaled() && catalog.tensors()[rows.tensor].dtype == formats::Dtype::kBF16) {
    panel_.bf16 = reinterpret_cast<const std::uint16_t*>(bytes.data());
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::uint16_t) != 0) {
      bf16_.resize(count);
      std::memcpy(bf16_.data(), bytes.data(), bytes.size());
      panel_.bf16 = bf16_.data();
    }
    return;
  }
  if (reader.scaled()) reader.DecodeScales(first, last, inputs.subspan(1), scales_);
  if (reader.scaled() && values == WeightValues::kBF16) {
    bf16_.resize(count);
    reader.RoundedToBF16(first, bytes, scales_, bf16_.data());
    panel_.bf16 = bf16_.data();
    return;
  }
  floats_.resize(count);
  reader.Floats(first, bytes, scales_, floats_.data());
  panel_.floats = floats_.data();
}

void RowValues::KeepColumns(std::size_t rows, std::size_t all, std::size_t first, std::size_t end) {
  if (panel_.bf16 != nullptr) {
    panel_.bf16 = CutColumns(panel_.bf16, rows, all, first, end, bf16_columns_);
  } else {
    panel_.floats = CutColumns(panel_.floats, rows, all, first, end, float_columns_);
  }
}

void RowValues::MakeFloats(std::size_t count) {
  if (panel_.floats != nullptr) return;
  floats_.resize(count);
  panel_.CopyTo(floats_.data(), count);
  panel_ = {nullptr, floats_.data()};
}

}  // namespace dsv3::convert
