#include "convert/open/training_reader.h"

#include <algorithm>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "formats/hash/xxh3.h"

namespace dsv3::convert {

TrainingReading TrainingReader::ReadModel(const ModelConfig& config,
                                          std::optional<Stack> from) const {
  std::vector<StackTensor> names;
  names.reserve(tensors().size());
  for (const ShardedTensor& tensor : tensors()) names.push_back({tensor.name, tensor.shape});
  const DetectedStack detected = DetectStack(names, from);
  return {detected.stack, ReadStack(detected, config, names), {}};
}

std::uint32_t StoredTensors::AddFile(const std::filesystem::path& path,
                                     const formats::InputFile& file, std::string_view description) {
  SourceFile source;
  source.name = file.name();
  source.path = path;
  source.bytes = file.bytes();
  source.mtime_ns = file.mtime_ns();
  source.header_digest = formats::Xxh3Hex(std::as_bytes(std::span(description)));
  source.shares_names = true;
  files_.push_back(std::move(source));
  return static_cast<std::uint32_t>(files_.size() - 1);
}

StoredPiece StoredTensors::AddView(std::uint32_t file, const std::string& name,
                                   const formats::TorchTensor& view,
                                   const formats::TorchStorage& storage, formats::Dtype dtype) {
  const std::uint64_t width = view.type->bytes;
  CatalogTensor stored{files_[file].name + '/' + name, dtype, {}, {file, 0, 0}};
  StoredPiece piece;
  piece.sizes = view.shape;
  piece.offsets.assign(view.shape.size(), 0);
  if (view.IsContiguous()) {
    piece.strides = RowMajorStrides(view.shape);
    stored.shape = view.shape;
    stored.extent.offset = storage.range.offset + view.offset * width;
    stored.extent.length = formats::NumBytes(dtype, view.shape).value_or(0);
  } else {
    piece.strides = view.strides;
    piece.first = view.offset;
    stored.shape = {storage.range.bytes / width};
    stored.extent.offset = storage.range.offset;
    stored.extent.length = storage.range.bytes;
  }
  piece.stored = static_cast<std::uint32_t>(tensors_.size());
  tensors_.push_back(std::move(stored));
  if (storage.crc != 0 && storage.range.bytes != 0) {
    files_[file].checked.push_back(
        {storage.range.offset, storage.range.bytes, storage.crc, "data/" + storage.key});
  }
  return piece;
}

Catalog StoredTensors::Take() {
  for (SourceFile& file : files_) {
    // Several tensors may share a storage.
    const auto place = [](const CheckedBytes& entry) { return entry.offset; };
    std::ranges::sort(file.checked, {}, place);
    const auto end = std::unique(
        file.checked.begin(), file.checked.end(),
        [&](const CheckedBytes& a, const CheckedBytes& b) { return place(a) == place(b); });
    file.checked.erase(end, file.checked.end());
    file.checked.shrink_to_fit();
  }
  return {std::move(files_), std::move(tensors_)};
}

StoredPiece StoredTensors::AddBox(std::uint32_t file, const formats::SafetensorsTensor& box,
                                  std::uint64_t data_offset, const formats::Shape& offsets) {
  const auto stored = static_cast<std::uint32_t>(tensors_.size());
  tensors_.push_back({fmt::format("{}/{}", files_[file].name, box.name),
                      box.dtype,
                      box.shape,
                      {file, data_offset + box.begin, box.end - box.begin}});
  return {offsets, box.shape, stored, 0, RowMajorStrides(box.shape)};
}

std::unique_ptr<TrainingReader> ReadTraining(const TrainingPlace& place) {
  switch (place.kind) {
    case TrainingPlace::Kind::kTorchFiles:
      return ReadTorchFiles(place);
    case TrainingPlace::Kind::kDcp:
      return ReadDcp(place);
    case TrainingPlace::Kind::kDcpSafetensors:
      return ReadDcpSafetensors(place);
    case TrainingPlace::Kind::kNamedSafetensors:
      return ReadNamedSafetensors(place);
    case TrainingPlace::Kind::kMegatronRanks:
      return ReadMegatronRankFiles(place);
  }
  return nullptr;
}

}  // namespace dsv3::convert
