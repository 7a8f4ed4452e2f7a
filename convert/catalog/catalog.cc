#include "convert/catalog/catalog.h"

#include <utility>

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include "convert/catalog/tensor_file.h"
#include "formats/error.h"

namespace dsv3::convert {
namespace {

constexpr std::uint32_t kHashGrain = 4096;

}  // namespace

Catalog Catalog::FromCheckpoint(formats::CheckpointFiles& files) {
  std::vector<TensorFile> held;
  held.reserve(files.shards.size());
  for (formats::ShardFile& shard : files.shards) {
    TensorFile& file = held.emplace_back();
    file.file = {shard.name, shard.path, shard.bytes, shard.mtime_ns, shard.header.digest};
    file.file.described_by = {{0, shard.header.data_offset}};
    file.header.data_offset = shard.header.data_offset;
    file.header.tensors = std::exchange(shard.header.tensors, {});
  }
  return CatalogOfFiles(std::move(held));
}

Catalog::Catalog(std::vector<SourceFile> files, std::vector<CatalogTensor> tensors)
    : files_(std::move(files)),
      tensors_(std::move(tensors)),
      tensors_end_(static_cast<std::uint32_t>(tensors_.size())),
      files_end_(static_cast<std::uint32_t>(files_.size())),
      by_name_(tensors_.size()) {
  const auto name_at = [this](std::uint32_t i) -> std::string_view { return tensors_[i].name; };
  // Hashing waits for memory, so several threads do it; adding hardly waits.
  std::vector<std::uint32_t> hashes(tensors_.size());
  tbb::parallel_for(
      tbb::blocked_range<std::uint32_t>(0, static_cast<std::uint32_t>(tensors_.size()), kHashGrain),
      [&](const tbb::blocked_range<std::uint32_t>& range) {
        for (std::uint32_t i = range.begin(); i < range.end(); ++i) {
          hashes[i] = formats::HashName(name_at(i));
        }
      });
  for (std::uint32_t i = 0; i < tensors_.size(); ++i) {
    if (by_name_.Add(i, hashes[i], name_at) == kNone) continue;
    throw Error(ErrorCode::kInternal,
                "tensor '" + tensors_[i].name + "' appears twice in a catalog",
                {files_[tensors_[i].extent.file].name, tensors_[i].name});
  }
}

void Catalog::Append(Catalog second, const std::string& checkpoint) {
  if (files_end_ != files_.size() || tensors_end_ != tensors_.size() || checkpoint.empty()) {
    throw Error(ErrorCode::kInternal, "a catalog takes one more checkpoint, which has a label");
  }
  appended_by_name_ = std::move(second.by_name_);
  for (SourceFile& file : second.files_) {
    file.checkpoint = checkpoint;
    files_.push_back(std::move(file));
  }
  tensors_.reserve(tensors_.size() + second.tensors_.size());
  for (CatalogTensor& tensor : second.tensors_) {
    tensor.extent.file += files_end_;
    tensors_.push_back(std::move(tensor));
  }
}

std::uint32_t Catalog::Find(std::string_view name) const {
  return by_name_.Find(name,
                       [this](std::uint32_t i) -> std::string_view { return tensors_[i].name; });
}

std::string_view Catalog::NameInFile(std::uint32_t tensor) const {
  const SourceFile& file = files_[tensors_[tensor].extent.file];
  std::string_view name = tensors_[tensor].name;
  if (file.shares_names) name.remove_prefix(file.name.size() + 1);
  return name;
}

std::uint32_t Catalog::FindAppended(std::string_view name) const {
  const std::uint32_t found = appended_by_name_.Find(
      name,
      [this](std::uint32_t i) -> std::string_view { return tensors_[tensors_end_ + i].name; });
  return found == kNone ? kNone : tensors_end_ + found;
}

}  // namespace dsv3::convert
