#include "tests/convert/support/tiny_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>

#include "formats/safetensors.h"
#include "formats/shard_index.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using formats::Dtype;

// FNV-1a: a seed of its own for each name, equal everywhere.
std::uint64_t SeedOf(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

}  // namespace

TinyTensor& TinyCheckpoint::Add(const std::string& shard, const std::string& name, Dtype dtype,
                                const formats::Shape& shape) {
  const auto bytes = static_cast<std::size_t>(formats::NumBytes(dtype, shape).value());
  tensors.push_back({shard, name, dtype, shape, RandomBytes(bytes, SeedOf(name))});
  return tensors.back();
}

TinyTensor& TinyCheckpoint::AddScale(const std::string& shard, const std::string& name, Dtype dtype,
                                     const formats::Shape& shape) {
  TinyTensor& scale = Add(shard, name, dtype, shape);
  const std::size_t element_bytes = formats::DtypeBits(dtype) / 8;
  for (std::size_t i = 0; i < scale.bytes.size(); i += element_bytes) {
    const auto random = static_cast<unsigned char>(scale.bytes[i]);
    if (element_bytes == 1) {
      scale.bytes[i] = static_cast<char>(110 + random % 30);
      continue;
    }
    const float value = (1.0F + static_cast<float>(random)) / 4096.0F;
    if (dtype == Dtype::kF16) {
      // All of these are normal numbers, with fewer digits than F16 has.
      int exponent = 0;
      const float fraction = std::frexp(value, &exponent);  // from 0.5 to 1
      const auto half = static_cast<std::uint16_t>(((exponent + 14) << 10) +
                                                   static_cast<int>((2 * fraction - 1) * 1024));
      std::memcpy(scale.bytes.data() + i, &half, sizeof(half));
      continue;
    }
    char bits[sizeof(float)];
    std::memcpy(bits, &value, sizeof(value));
    // The upper bytes of a little-endian float are its BF16 form, cut off.
    std::copy(bits + sizeof(float) - element_bytes, bits + sizeof(float), scale.bytes.data() + i);
  }
  return scale;
}

TinyTensor& TinyCheckpoint::Find(const std::string& name) {
  for (TinyTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range("the checkpoint has no tensor " + name);
}

void TinyCheckpoint::Drop(const std::string& name) {
  const auto has_name = [&](const TinyTensor& tensor) { return tensor.name == name; };
  if (std::erase_if(tensors, has_name) == 0) {
    throw std::out_of_range("the checkpoint has no tensor " + name);
  }
}

std::size_t TinyCheckpoint::DropContaining(const std::string& part) {
  return std::erase_if(tensors, [&](const TinyTensor& tensor) {
    return tensor.name.find(part) != std::string::npos;
  });
}

std::string TinyCheckpoint::ShardBytes(const std::string& shard) const {
  std::vector<formats::SafetensorsTensor> entries;
  std::map<std::string, const std::string*> bytes_of;
  for (const TinyTensor& tensor : tensors) {
    if (tensor.shard != shard) continue;
    entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, 0});
    bytes_of[tensor.name] = &tensor.bytes;
  }
  formats::LayOutTensors(entries);
  std::string file = formats::SerializeSafetensorsHeader(entries, {{"format", "pt"}});
  for (const formats::SafetensorsTensor& entry : entries) file += *bytes_of.at(entry.name);
  return file;
}

std::string TinyCheckpoint::IndexText() const {
  if (index_text) return *index_text;
  std::set<std::string> shards;
  for (const TinyTensor& tensor : tensors) shards.insert(tensor.shard);
  formats::ShardIndex index;
  index.files.assign(shards.begin(), shards.end());
  std::uint64_t total_size = 0;
  for (const TinyTensor& tensor : tensors) {
    const auto file = std::distance(shards.begin(), shards.find(tensor.shard));
    index.weight_map.emplace_back(tensor.name, static_cast<std::uint32_t>(file));
    total_size += tensor.bytes.size();
  }
  index.total_size = total_size;
  std::sort(index.weight_map.begin(), index.weight_map.end());
  return formats::SerializeShardIndex(index);
}

void TinyCheckpoint::Write(const std::filesystem::path& directory) const {
  std::filesystem::create_directories(directory);
  std::set<std::string> shards;
  for (const TinyTensor& tensor : tensors) shards.insert(tensor.shard);
  for (const std::string& shard : shards) WriteFile(directory / shard, ShardBytes(shard));
  if (!config.empty()) WriteFile(directory / "config.json", config);
  if (has_index) WriteFile(directory / "model.safetensors.index.json", IndexText());
  for (const auto& [name, content] : side_files) WriteFile(directory / name, content);
}

std::string TinyConfig() {
  return R"({
  "architectures": ["TinyForTests"],
  "model_type": "tiny_for_tests",
  "quantization_config": {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [4, 8]
  },
  "torch_dtype": "float8_e4m3fn",
  "vocab_size": 16
}
)";
}

TinyCheckpoint SmallFp8Checkpoint() {
  TinyCheckpoint checkpoint;
  checkpoint.config = TinyConfig();
  checkpoint.Add(kTinyShard1, "a.weight", Dtype::kF8E4M3, {10, 12}).bytes[5] = '\x7f';
  checkpoint.AddScale(kTinyShard1, "a.weight_scale_inv", Dtype::kF32, {3, 2});
  checkpoint.Add(kTinyShard1, "b.weight", Dtype::kF8E4M3, {7, 9});
  checkpoint.AddScale(kTinyShard2, "b.weight_scale_inv", Dtype::kF32, {2, 2});
  checkpoint.Add(kTinyShard1, "norm.weight", Dtype::kBF16, {16});
  checkpoint.Add(kTinyShard1, "router.bias", Dtype::kF32, {3});

  checkpoint.Add(kTinyShard2, "c.weight", Dtype::kF8E4M3, {5, 20}).bytes[99] = '\xff';
  checkpoint.AddScale(kTinyShard4, "c.weight_scale_inv", Dtype::kBF16, {2, 3});
  checkpoint.Add(kTinyShard2, "ids", Dtype::kI64, {4});
  checkpoint.Add(kTinyShard2, "mask", Dtype::kBool, {3}).bytes = std::string("\1\0\1", 3);
  checkpoint.Add(kTinyShard2, "nothing", Dtype::kF32, {0, 4});
  checkpoint.Add(kTinyShard2, "scalar", Dtype::kF32, {});

  checkpoint.Add(kTinyShard3, "d.weight", Dtype::kF8E4M3, {9, 8});
  checkpoint.AddScale(kTinyShard3, "d.weight_scale_inv", Dtype::kF8E8M0, {3, 1});
  checkpoint.Add(kTinyShard3, "e.weight", Dtype::kF8E4M3, {1, 17});
  checkpoint.AddScale(kTinyShard4, "e.weight_scale_inv", Dtype::kF32, {1, 3});
  checkpoint.Add(kTinyShard3, "inv_freq", Dtype::kF32, {5});

  checkpoint.side_files = {{"README.md", "A tiny checkpoint.\n"},
                           {"code/modeling_tiny.py", "pass\n"},
                           {"empty.txt", ""},
                           {"tokenizer.json", "{\"version\": \"1.0\"}\n"}};
  return checkpoint;
}

}  // namespace dsv3::testing
