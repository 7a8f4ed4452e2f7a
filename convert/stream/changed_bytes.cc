#include "convert/stream/changed_bytes.h"

#include <algorithm>

#include "formats/error.h"
#include "formats/hash/xxh3.h"

namespace dsv3::convert {
namespace {

// A file that is read from its first byte to its last, and then compared with what it got.
class CheckedFile final : public formats::ScratchFile {
 public:
  explicit CheckedFile(std::unique_ptr<formats::ScratchFile> file) : file_(std::move(file)) {}

  std::uint64_t bytes() const override { return file_->bytes(); }
  void Append(std::span<const std::byte> data) override {
    file_->Append(data);
    written_.Update(data);
  }
  void ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    file_->ReadAt(offset, out);
    if (offset == 0) read_.Reset();
    read_.Update(out);
    if (offset + out.size() != bytes() || read_.Hex() == written_.Hex()) return;
    throw Error(ErrorCode::kVerification,
                "the bytes that were read back from a scratch file are not those that were "
                "written; the disk or the memory of this machine is faulty: repair it and run the "
                "command again");
  }
  void Clear() override {
    file_->Clear();
    written_.Reset();
  }

 private:
  const std::unique_ptr<formats::ScratchFile> file_;
  formats::Xxh3 written_;
  mutable formats::Xxh3 read_;
};

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
    position_file_ = std::make_unique<CheckedFile>(make_scratch_());
    value_file_ = std::make_unique<CheckedFile>(make_scratch_());
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
