#include "convert/plan/container.h"

#include "convert/plan/gguf_file.h"
#include "formats/safetensors.h"

namespace dsv3::convert {
namespace {

class SafetensorsContainer final : public Container {
 public:
  std::string_view suffix() const override { return ".safetensors"; }
  std::uint64_t alignment() const override { return 1; }

  void LayOut(std::vector<TensorEntry>& tensors) const override {
    std::vector<formats::SafetensorsTensor> entries = EntriesOf(tensors);
    formats::LayOutTensors(entries);
    tensors = FromEntries(std::move(entries));
  }

  std::string Header(const std::vector<TensorEntry>& tensors,
                     const FileMetadata& metadata) const override {
    return formats::SerializeSafetensorsHeader(EntriesOf(tensors), metadata);
  }

  ContainerHeader ReadHeader(const std::filesystem::path& path,
                             const std::string& name) const override {
    formats::SafetensorsHeader header = formats::ReadSafetensorsHeader(path, name);
    return {FromEntries(std::move(header.tensors)), header.data_offset, std::move(header.digest)};
  }

 private:
  static std::vector<formats::SafetensorsTensor> EntriesOf(
      const std::vector<TensorEntry>& tensors) {
    std::vector<formats::SafetensorsTensor> entries;
    entries.reserve(tensors.size());
    for (const TensorEntry& tensor : tensors) {
      entries.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.offset, tensor.end()});
    }
    return entries;
  }

  static std::vector<TensorEntry> FromEntries(std::vector<formats::SafetensorsTensor> entries) {
    std::vector<TensorEntry> tensors;
    tensors.reserve(entries.size());
    for (formats::SafetensorsTensor& entry : entries) {
      tensors.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape), entry.begin,
                         entry.end - entry.begin});
    }
    return tensors;
  }
};

}  // namespace

const Container& Safetensors() {
  static const SafetensorsContainer container;
  return container;
}

const Container* ContainerOf(std::string_view name) {
  for (const Container* const container : {&Safetensors(), &Gguf()}) {
    if (name.ends_with(container->suffix())) return container;
  }
  return nullptr;
}

}  // namespace dsv3::convert
