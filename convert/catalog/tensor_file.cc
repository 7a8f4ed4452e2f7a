#include "convert/catalog/tensor_file.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "formats/io/input_file.h"

namespace dsv3::convert {

TensorFile OpenTensorFile(const std::filesystem::path& directory, const std::string& name,
                          const std::vector<formats::FreedShard>& freed) {
  TensorFile opened;
  opened.file.name = name;
  opened.file.path = directory / name;
  const formats::InputFile input = formats::OpenOrFreed(opened.file.path, name, freed);
  opened.header = formats::ReadSafetensorsHeader(input);
  opened.file.bytes = input.bytes();
  opened.file.mtime_ns = input.mtime_ns();
  opened.file.header_digest = opened.header.digest;
  opened.file.described_by = {{0, opened.header.data_offset}};
  return opened;
}

void FindSharedNames(std::vector<TensorFile>& files) {
  std::unordered_set<std::string_view> names;
  bool shares_names = false;
  for (const TensorFile& file : files) {
    for (const formats::SafetensorsTensor& tensor : file.header.tensors) {
      shares_names = !names.insert(tensor.name).second || shares_names;
    }
  }
  for (TensorFile& file : files) file.file.shares_names = shares_names;
}

Catalog CatalogOfFiles(std::vector<TensorFile> files) {
  std::vector<SourceFile> sources;
  std::vector<CatalogTensor> tensors;
  std::size_t num_tensors = 0;
  for (const TensorFile& file : files) num_tensors += file.header.tensors.size();
  sources.reserve(files.size());
  tensors.reserve(num_tensors);
  for (TensorFile& held : files) {
    const auto position = static_cast<std::uint32_t>(sources.size());
    for (formats::SafetensorsTensor& tensor : held.header.tensors) {
      tensors.push_back(
          {held.file.shares_names ? held.file.name + '/' + tensor.name : std::move(tensor.name),
           tensor.dtype,
           std::move(tensor.shape),
           {position, held.header.data_offset + tensor.begin, tensor.end - tensor.begin}});
    }
    held.header = {};  // its tensors take as much memory as the catalog's
    sources.push_back(std::move(held.file));
  }
  return Catalog(std::move(sources), std::move(tensors));
}

}  // namespace dsv3::convert
