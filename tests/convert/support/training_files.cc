#include "tests/convert/support/training_files.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/formats/support/torch_archive.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using nlohmann::json;
using Storages = std::vector<std::pair<std::string, std::string>>;

// Rows [begin, end) of a tensor.
struct Rows {
  std::string name;
  formats::Shape shape;  // of the rows
  std::uint64_t first_row = 0;
  std::string bytes;
};

Rows RowsOf(const ElementModel& model, const convert::StackTensor& tensor, std::uint64_t begin,
            std::uint64_t end) {
  Rows rows{tensor.name, tensor.shape, begin, {}};
  rows.shape[0] = end - begin;
  const convert::testing::Elements& elements = model.values.at(tensor.name);
  const std::size_t row = elements.size() / tensor.shape[0];
  for (std::size_t i = begin * row; i < end * row; ++i) {
    const auto value = static_cast<float>(elements[i]);
    rows.bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return rows;
}

Rows WholeOf(const ElementModel& model, const convert::StackTensor& tensor) {
  return RowsOf(model, tensor, 0, tensor.shape[0]);
}

void Put(const Rows& rows, PickleText& pickle, Storages& storages) {
  TorchTensorText tensor;
  tensor.key = std::to_string(storages.size());
  tensor.storage_elements = static_cast<std::int64_t>(rows.bytes.size() / sizeof(float));
  tensor.shape.assign(rows.shape.begin(), rows.shape.end());
  tensor.strides.assign(rows.shape.size(), 1);
  for (std::size_t i = rows.shape.size(); i > 1; --i) {
    tensor.strides[i - 2] = tensor.strides[i - 1] * tensor.shape[i - 1];
  }
  PutTensor(pickle, tensor);
  storages.emplace_back(tensor.key, rows.bytes);
}

std::string DictArchive(const std::vector<Rows>& tensors) {
  PickleText pickle;
  Storages storages;
  pickle.Op("}(");
  for (const Rows& rows : tensors) Put(rows, pickle.Text(rows.name), storages);
  return TorchArchive(pickle.Op("u").Stop(), storages);
}

std::string TensorArchive(const Rows& rows) {
  PickleText pickle;
  Storages storages;
  Put(rows, pickle, storages);
  return TorchArchive(pickle.Stop(), storages);
}

void WriteConfig(const ElementModel& model, const std::filesystem::path& directory) {
  json config = convert::testing::RopeConfig();
  config["num_hidden_layers"] = model.config.num_hidden_layers;
  config.erase("quantization_config");
  WriteFile(directory / "config.json", config.dump(2));
}

void WriteShard(const std::vector<Rows>& tensors, const std::filesystem::path& path) {
  json header;
  json offsets = json::object();
  std::string data;
  for (const Rows& rows : tensors) {
    std::vector<std::uint64_t> at(rows.shape.size(), 0);
    at[0] = rows.first_row;
    offsets[rows.name] = {{"saved_offsets", at}};
    header[rows.name] = {{"dtype", "F32"},
                         {"shape", rows.shape},
                         {"data_offsets", {data.size(), data.size() + rows.bytes.size()}}};
    data += rows.bytes;
  }
  header["__metadata__"] = {
      {"format", "pt"}, {"DCP_VERSION", "1.0"}, {"DCP_SHARDING_INFO", offsets.dump()}};
  const std::string text = header.dump();
  const std::uint64_t length = text.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  WriteFile(path, bytes + text + data);
}

}  // namespace

void WriteTorchFiles(const ElementModel& model, std::size_t files,
                     const std::filesystem::path& directory) {
  WriteConfig(model, directory);
  std::vector<std::vector<Rows>> held(files);
  json map;
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const std::size_t file = i * files / model.tensors.size();
    held[file].push_back(WholeOf(model, model.tensors[i]));
    map[model.tensors[i].name] = fmt::format("pytorch_model-{}.bin", file);
  }
  for (std::size_t file = 0; file < files; ++file) {
    WriteFile(directory / fmt::format("pytorch_model-{}.bin", file), DictArchive(held[file]));
  }
  WriteFile(directory / "pytorch_model.bin.index.json", json{{"weight_map", map}}.dump());
}

void WriteTorchFile(const ElementModel& model, const std::filesystem::path& path) {
  WriteConfig(model, path.parent_path());
  std::vector<Rows> held;
  for (const convert::StackTensor& tensor : model.tensors) held.push_back(WholeOf(model, tensor));
  WriteFile(path, DictArchive(held));
}

void WriteDcp(const ElementModel& model, const std::filesystem::path& directory,
              const std::function<void(std::vector<DcpTensorText>&)>& edit) {
  WriteConfig(model, directory);
  std::map<std::string, std::string> files;
  std::vector<DcpTensorText> tensors;
  const auto add = [&](const std::string& file, const Rows& rows, DcpTensorText& tensor) {
    std::string& content = files[file];
    const std::string archive = TensorArchive(rows);
    DcpChunkText chunk;
    chunk.offsets.assign(rows.shape.size(), 0);
    chunk.offsets[0] = static_cast<std::int64_t>(rows.first_row);
    chunk.sizes.assign(rows.shape.begin(), rows.shape.end());
    chunk.item = DcpItemText{file,
                             static_cast<std::int64_t>(content.size()),
                             static_cast<std::int64_t>(archive.size()),
                             {}};
    tensor.chunks.push_back(std::move(chunk));
    content += archive;
  };
  const auto begin = [&](const std::string& name, const formats::Shape& shape) -> DcpTensorText& {
    tensors.push_back({name, "float32", {shape.begin(), shape.end()}, {}});
    return tensors.back();
  };
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const convert::StackTensor& tensor = model.tensors[i];
    const std::string file = fmt::format("__{}_0.distcp", i * 3 / model.tensors.size());
    DcpTensorText& text = begin(tensor.name, tensor.shape);
    if (i % 5 != 0 || tensor.shape[0] < 2) {
      add(file, WholeOf(model, tensor), text);
      continue;
    }
    const std::uint64_t half = tensor.shape[0] / 2;
    add(file, RowsOf(model, tensor, 0, half), text);
    add("__3_0.distcp", RowsOf(model, tensor, half, tensor.shape[0]), text);
  }
  const std::string bytes(4 * sizeof(float), '\x01');
  DcpTensorText& state = begin("optimizer.state.exp_avg.model.norm.weight", {8});
  add("__0_0.distcp", {state.name, {4}, 0, bytes}, state);
  add(kOptimizerFile, {state.name, {4}, 4, bytes}, state);
  for (const auto& [name, content] : files) WriteFile(directory / name, content);
  if (edit) edit(tensors);
  WriteFile(directory / ".metadata", MakeDcpMetadata(tensors));
}

void WriteDcpSafetensors(const ElementModel& model, const std::filesystem::path& directory) {
  WriteConfig(model, directory);
  std::vector<Rows> held[2][2];
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const convert::StackTensor& tensor = model.tensors[i];
    const std::size_t file = 2 * i < model.tensors.size() ? 0 : 1;
    const std::uint64_t half = tensor.shape[0] / 2;
    held[0][file].push_back(RowsOf(model, tensor, 0, half));
    held[1][file].push_back(RowsOf(model, tensor, half, tensor.shape[0]));
  }
  for (const int rank : {0, 1}) {
    for (const int file : {0, 1}) {
      WriteShard(held[rank][file],
                 directory / fmt::format("shard-{:05}-model-{:05}-of-00002.safetensors", rank + 1,
                                         file + 1));
    }
  }
}

}  // namespace dsv3::testing
