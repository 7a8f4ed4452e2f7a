#include "convert/plan/catalog.h"

#include <bit>
#include <functional>
#include <utility>

#include "formats/error.h"

namespace dsv3::convert {

Catalog Catalog::FromCheckpoint(formats::CheckpointFiles& files) {
  std::vector<SourceFile> source_files;
  std::vector<CatalogTensor> tensors;
  std::size_t num_tensors = 0;
  for (const formats::ShardFile& shard : files.shards) num_tensors += shard.header.tensors.size();
  source_files.reserve(files.shards.size());
  tensors.reserve(num_tensors);
  for (formats::ShardFile& shard : files.shards) {
    const auto file = static_cast<std::uint32_t>(source_files.size());
    source_files.push_back(
        {shard.name, shard.path, shard.bytes, shard.mtime_ns, shard.header.digest});
    for (formats::SafetensorsTensor& tensor : shard.header.tensors) {
      tensors.push_back(
          {std::move(tensor.name),
           tensor.dtype,
           std::move(tensor.shape),
           {file, shard.header.data_offset + tensor.begin, tensor.end - tensor.begin}});
    }
    shard.header.tensors.clear();
    shard.header.tensors.shrink_to_fit();
  }
  return Catalog(std::move(source_files), std::move(tensors));
}

Catalog::Catalog(std::vector<SourceFile> files, std::vector<CatalogTensor> tensors)
    : files_(std::move(files)), tensors_(std::move(tensors)) {
  by_name_.assign(std::bit_ceil(2 * tensors_.size() + 1), kNone);
  for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
    std::uint32_t& place = by_name_[Place(tensors_[i].name)];
    if (place != kNone) {
      throw Error(ErrorCode::kInternal,
                  "tensor '" + tensors_[i].name + "' stands twice in a catalog",
                  {files_[tensors_[i].extent.file].name, tensors_[i].name});
    }
    place = i;
  }
}

std::uint32_t Catalog::Find(std::string_view name) const { return by_name_[Place(name)]; }

std::size_t Catalog::Place(std::string_view name) const {
  const std::size_t mask = by_name_.size() - 1;
  std::size_t place = std::hash<std::string_view>{}(name)&mask;
  // At most half of the places are taken.
  while (by_name_[place] != kNone && tensors_[by_name_[place]].name != name) {
    place = (place + 1) & mask;
  }
  return place;
}

}  // namespace dsv3::convert
