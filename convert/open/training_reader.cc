#include "convert/open/training_reader.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "formats/freed_shard.h"

namespace dsv3::convert {

namespace {

// Ranges that lie this close together are one.
constexpr std::uint64_t kGapBytes = 512;

std::vector<formats::FileRange> Joined(std::vector<formats::FileRange> ranges) {
  std::ranges::sort(ranges, {}, &formats::FileRange::offset);
  std::vector<formats::FileRange> joined;
  for (const formats::FileRange& range : ranges) {
    if (joined.empty() || range.offset > joined.back().offset + joined.back().bytes + kGapBytes) {
      joined.push_back(range);
      continue;
    }
    const std::uint64_t end =
        std::max(joined.back().offset + joined.back().bytes, range.offset + range.bytes);
    joined.back().bytes = end - joined.back().offset;
  }
  return joined;
}

}  // namespace

TrainingReading TrainingReader::ReadModel(const ModelConfig& config,
                                          std::optional<Stack> from) const {
  std::vector<StackTensor> names;
  names.reserve(tensors().size());
  for (const ShardedTensor& tensor : tensors()) names.push_back({tensor.name, tensor.shape});
  const DetectedStack detected = DetectStack(names, from);
  return {detected.stack, ReadStack(detected, config, names), {}};
}

std::uint32_t StoredTensors::AddFile(const std::filesystem::path& path,
                                     const formats::InputFile& file, std::string header_digest) {
  SourceFile source;
  source.name = file.name();
  source.path = path;
  source.bytes = file.bytes();
  source.mtime_ns = file.mtime_ns();
  source.header_digest = std::move(header_digest);
  source.shares_names = true;
  source.described_by = Joined(file.reads());
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

// A file may give two tensors one name: {"a.b": …, "a": {"b": …}}. Where both are of the model they
// are refused by their names; here the later one gets another.
void StoredTensors::MakeNamesUnique() {
  std::vector<std::uint32_t> order(tensors_.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto key = [&](std::uint32_t i) {
    return std::pair<std::string_view, std::uint32_t>(tensors_[i].name, i);
  };
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  std::vector<std::uint32_t> repeated;
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (tensors_[order[i]].name == tensors_[order[i - 1]].name) repeated.push_back(order[i]);
  }
  for (const std::uint32_t i : repeated) tensors_[i].name += fmt::format("#{}/{}", i, order.size());
}

Catalog StoredTensors::Take() {
  MakeNamesUnique();
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

formats::InputFile OpenFileOf(const TrainingPlace& place, const std::string& name) {
  formats::InputFile file = formats::OpenOrFreed(place.directory / name, name, place.freed);
  file.ListReads();
  return file;
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
    case TrainingPlace::Kind::kSafetensors:
      return ReadSafetensors(place);
    case TrainingPlace::Kind::kMegatronRanks:
      return ReadMegatronRankFiles(place);
  }
  return nullptr;
}

}  // namespace dsv3::convert
