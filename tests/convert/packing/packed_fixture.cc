#include "tests/convert/packing/packed_fixture.h"

#include <span>
#include <stdexcept>
#include <string_view>

#include "convert/packing/chunk_coder.h"
#include "convert/packing/packed_file.h"
#include "convert/packing/packed_manifest.h"
#include "formats/safetensors.h"
#include "tests/convert/support/digest_oracle.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

formats::SafetensorsHeader HeaderOf(const std::string& file) {
  return formats::ParseSafetensorsHeader(AsBytes(file), file.size(), "fixture");
}

std::string_view DataOf(const std::string& file, const formats::SafetensorsHeader& header,
                        const formats::SafetensorsTensor& tensor) {
  return std::string_view(file).substr(header.data_offset + tensor.begin,
                                       tensor.end - tensor.begin);
}

// The bytes of a tensor of a base; empty where the base has no such tensor.
std::string_view BaseOf(const std::string& base, const formats::SafetensorsTensor& tensor) {
  if (base.empty()) return {};
  const formats::SafetensorsHeader header = HeaderOf(base);
  for (const formats::SafetensorsTensor& other : header.tensors) {
    if (other.name == tensor.name && other.dtype == tensor.dtype && other.shape == tensor.shape) {
      return DataOf(base, header, other);
    }
  }
  return {};
}

std::string Stream(formats::Dtype dtype, std::string_view raw, std::string_view base) {
  convert::ChunkEncoder encoder;
  std::vector<formats::SeekEntry> frames;
  std::string stream;
  std::string packed(convert::PackedChunkBound(convert::kPackedChunkBytes), '\0');
  for (std::size_t begin = 0; begin < raw.size(); begin += convert::kPackedChunkBytes) {
    const std::string_view old =
        base.empty() ? base : base.substr(begin, convert::kPackedChunkBytes);
    const std::size_t bytes =
        encoder.Encode(dtype, AsBytes(raw.substr(begin, convert::kPackedChunkBytes)), AsBytes(old),
                       std::as_writable_bytes(std::span(packed)), frames);
    stream.append(packed, 0, bytes);
  }
  return stream + formats::SerializeSeekTable(frames);
}

}  // namespace

PackedBytes PackChunk(formats::Dtype dtype, std::string_view raw, std::string_view base) {
  PackedBytes packed;
  packed.bytes.resize(convert::PackedChunkBound(raw.size()));
  packed.bytes.resize(convert::ChunkEncoder().Encode(
      dtype, AsBytes(raw), AsBytes(base), std::as_writable_bytes(std::span(packed.bytes)),
      packed.frames));
  return packed;
}

std::string SafetensorsFile(const std::vector<TensorBytes>& tensors, std::string_view padding) {
  std::vector<formats::SafetensorsTensor> entries;
  std::string data;
  for (const TensorBytes& tensor : tensors) {
    entries.push_back({.name = tensor.name,
                       .dtype = tensor.dtype,
                       .shape = tensor.shape,
                       .begin = data.size(),
                       .end = data.size() + tensor.bytes.size()});
    data += tensor.bytes;
  }
  std::string head = formats::SerializeSafetensorsHeader(entries, {{"format", "pt"}});
  head += padding;
  const std::uint64_t length = head.size() - 8;
  head.replace(0, 8, reinterpret_cast<const char*>(&length), 8);
  return head + data;
}

std::string PackFile(const std::string& safetensors, const std::string& base) {
  const formats::SafetensorsHeader header = HeaderOf(safetensors);
  const convert::PackedFileLayout layout(
      std::string_view(safetensors).substr(0, header.data_offset), header);
  std::string streams;
  std::vector<std::uint64_t> sizes;
  for (const formats::SafetensorsTensor& tensor : header.tensors) {
    const std::string stream =
        Stream(tensor.dtype, DataOf(safetensors, header, tensor), BaseOf(base, tensor));
    sizes.push_back(stream.size());
    streams += stream;
  }
  const std::string head = layout.Head(sizes);
  if (head.size() != layout.streams_offset()) throw std::runtime_error("the head has another size");
  if (head.size() + streams.size() > layout.max_bytes())
    throw std::runtime_error("beyond the bound");
  return head + streams;
}

void PackDirectory(const std::filesystem::path& in, const std::filesystem::path& out,
                   const std::filesystem::path& base) {
  convert::PackedManifest manifest;
  for (const auto& [name, content] : ReadTree(in)) {
    if (name.ends_with('/')) continue;
    convert::PackedManifestFile file{
        .name = name, .bytes = content.size(), .sha256 = Sha256Of(content)};
    if (!name.ends_with(".safetensors")) {
      WriteFile(out / name, content);
      manifest.files.push_back(file);
      continue;
    }
    const std::string old = base.empty() ? std::string() : ReadFile(base / name);
    const std::string packed = PackFile(content, old);
    file.packed = true;
    file.packed_bytes = packed.size();
    file.packed_sha256 = Sha256Of(packed);
    WriteFile(out / file.PackedName(), packed);
    manifest.files.push_back(file);
    const formats::SafetensorsHeader header = HeaderOf(content);
    for (const formats::SafetensorsTensor& tensor : header.tensors) {
      const std::string_view base_bytes = BaseOf(old, tensor);
      manifest.tensors.push_back(
          {.name = tensor.name,
           .file = name,
           .dtype = tensor.dtype,
           .shape = tensor.shape,
           .xxh3 = Xxh3Of(DataOf(content, header, tensor)),
           .base_xxh3 = base_bytes.empty() ? std::string() : Xxh3Of(base_bytes)});
    }
  }
  WriteFile(out / std::string(convert::kPackedManifestName),
            convert::SerializePackedManifest(manifest));
}

std::string SignedList(std::string text) {
  constexpr std::string_view kName = "\"list_xxh3_128\": \"";
  const std::size_t at = text.rfind(kName);
  if (at == text.npos) return text;
  const std::string digest = Xxh3Of(text.substr(0, at));
  return text.replace(at + kName.size(), digest.size(), digest);
}

}  // namespace dsv3::testing
