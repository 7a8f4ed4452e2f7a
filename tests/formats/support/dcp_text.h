#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/formats/support/pickle_text.h"

// Composes the .metadata of a distributed checkpoint as torch.distributed.checkpoint writes it.
namespace dsv3::testing {

struct DcpItemText {
  std::string path = "__0_0.distcp";
  std::int64_t offset = 0;
  std::int64_t length = 1577;
  std::string transforms = {};  // the opcodes of transform_descriptors; none where it is empty
};

struct DcpChunkText {
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> sizes;
  std::optional<DcpItemText> item = DcpItemText{};
};

struct DcpTensorText {
  std::string name;
  std::string dtype = "bfloat16";
  std::vector<std::int64_t> shape;
  std::vector<DcpChunkText> chunks;
};

inline constexpr std::string_view kDcpModule = "torch.distributed.checkpoint.metadata";

// A new object of this class of the metadata's module; its state follows.
inline PickleText& PutObject(PickleText& text, std::string_view name,
                             std::string_view module = kDcpModule) {
  return text.Global(module, name).Op(")\x81");
}

inline void PutProperties(PickleText& text, std::string_view dtype) {
  PutObject(text, "TensorProperties").Op("(").Global("torch", dtype);
  text.Global("torch.serialization", "_get_layout").Text("torch.strided").Op("\x85R\x89");
  text.Global(kDcpModule, "_MEM_FORMAT_ENCODING").Op("K").Number(0, 1).Op("\x85R\x89tb");
}

inline void PutTensorMetadata(PickleText& text, const DcpTensorText& tensor) {
  PutObject(text, "TensorStorageMetadata").Op("}(").Text("properties");
  PutProperties(text, tensor.dtype);
  text.Text("size").Size(tensor.shape).Text("chunks").Op("](");
  for (const DcpChunkText& chunk : tensor.chunks) {
    PutObject(text, "ChunkStorageMetadata").Op("}(");
    text.Text("offsets").Size(chunk.offsets).Text("sizes").Size(chunk.sizes).Op("ub");
  }
  text.Op("eub");
}

// The index of an item and its place.
inline void PutItem(PickleText& text, std::string_view name,
                    const std::vector<std::int64_t>& offsets, const DcpItemText& item) {
  PutObject(text, "MetadataIndex").Op("}(").Text("fqn").Text(name).Text("index").Op("N");
  text.Text("offset").Size(offsets).Op("ub");
  PutObject(text, "_StorageInfo", "torch.distributed.checkpoint.filesystem").Op("}(");
  text.Text("relative_path").Text(item.path).Text("offset").Int(item.offset);
  text.Text("length").Int(item.length);
  if (!item.transforms.empty()) text.Text("transform_descriptors").Op(item.transforms);
  text.Op("ub");
}

// Byte items: their metadata, and an index without an offset.
inline void PutBytesMetadata(PickleText& text, std::string_view name) {
  PutObject(text.Text(name), "BytesStorageMetadata").Op("}b");
}

// The opcodes of the state up to its end: {state_dict_metadata, storage_data, ...}.
inline std::string MakeDcpMetadata(const std::vector<DcpTensorText>& tensors,
                                   const std::vector<std::string>& byte_items = {},
                                   std::string_view root_module = kDcpModule,
                                   std::string_view root_name = "Metadata") {
  PickleText text(4);
  PutObject(text, root_name, root_module).Op("}(").Text("state_dict_metadata").Op("}(");
  for (const DcpTensorText& tensor : tensors) {
    PutTensorMetadata(text.Text(tensor.name), tensor);
  }
  for (const std::string& name : byte_items) PutBytesMetadata(text, name);
  text.Op("u").Text("planner_data").Op("N").Text("storage_data").Op("}(");
  // Last items first: their order has no meaning.
  for (auto tensor = tensors.rbegin(); tensor != tensors.rend(); ++tensor) {
    for (auto chunk = tensor->chunks.rbegin(); chunk != tensor->chunks.rend(); ++chunk) {
      if (chunk->item) PutItem(text, tensor->name, chunk->offsets, *chunk->item);
    }
  }
  for (const std::string& name : byte_items) {
    PutObject(text, "MetadataIndex").Op("}(").Text("fqn").Text(name).Text("index").Op("Nub");
    PutObject(text, "_StorageInfo", "torch.distributed.checkpoint.filesystem").Op("}b");
  }
  text.Op("u").Text("storage_meta");
  PutObject(text, "StorageMeta").Op("}(").Text("checkpoint_id").Global("pathlib", "PosixPath");
  text.Text("/").Text("ckpt").Op("\x86Rub").Text("version").Text("1.0.0").Op("ub");
  return text.Stop();
}

}  // namespace dsv3::testing
