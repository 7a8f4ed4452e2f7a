#include "convert/stream/changed_bytes.h"

#include <algorithm>

namespace dsv3::convert {
namespace {

void Give(const formats::ScratchFile& file,
          const std::function<void(std::span<const std::byte>)>& take) {
  std::vector<std::byte> piece;
  for (std::uint64_t begin = 0; begin < file.bytes(); begin += piece.size()) {
    piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(
        ChangedBytes::kMostKept * sizeof(std::uint32_t), file.bytes() - begin)));
    file.ReadAt(begin, piece);
    take(piece);
  }
}

}  // namespace

void ChangedBytes::Add(std::uint32_t position, std::byte value) {
  if (positions_.size() == kMostKept) Spill();
  positions_.push_back(position);
  values_.push_back(value);
}

void ChangedBytes::Spill() {
  if (!position_file_) {
    position_file_ = make_scratch_();
    value_file_ = make_scratch_();
  }
  position_file_->Append(std::as_bytes(std::span(positions_)));
  value_file_->Append(values_);
  spilled_ += positions_.size();
  positions_.clear();
  values_.clear();
}

void ChangedBytes::Clear() {
  positions_.clear();
  values_.clear();
  if (spilled_ == 0) return;
  position_file_->Clear();
  value_file_->Clear();
  spilled_ = 0;
}

void ChangedBytes::ForEach(const std::function<void(std::span<const std::byte>)>& take) const {
  if (spilled_ != 0) Give(*position_file_, take);
  take(std::as_bytes(std::span(positions_)));
  if (spilled_ != 0) Give(*value_file_, take);
  take(values_);
}

}  // namespace dsv3::convert
