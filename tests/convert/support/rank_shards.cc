#include "tests/convert/support/rank_shards.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "formats/hash/sha256.h"
#include "formats/hash/xxh3.h"
#include "tests/support/files.h"

namespace dsv3::testing {
namespace {

using convert::Box;
using convert::MatrixOf;
using convert::MatrixShape;
using formats::LayoutPart;
using formats::LayoutTensor;

std::string HeaderOf(const std::string& file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  return file.substr(sizeof(length), static_cast<std::size_t>(length));
}

// The boxes of the two ranks; one box where both hold the whole.
std::vector<Box> CutInTwo(const formats::Shape& shape) {
  const MatrixShape matrix = MatrixOf(shape);
  const Box whole = Whole(matrix);
  Box first = whole;
  Box second = whole;
  if (shape.size() >= 2 && matrix.rows >= 2 && (matrix.rows + matrix.cols) % 2 == 0) {
    first.row_end = second.row_begin = matrix.rows / 3 + 1;
  } else if (shape.size() == 2 && matrix.rows >= 1 && matrix.cols >= 2) {
    first.col_end = second.col_begin = matrix.cols / 2;
  } else if (shape.size() == 1 && matrix.rows >= 4) {
    first.row_end = second.row_begin = matrix.rows - 1;
  } else {
    return {whole};
  }
  return {first, second};
}

formats::Shape ShapeOf(const formats::Shape& shape, const Box& box) {
  if (box == Whole(MatrixOf(shape))) return shape;
  if (shape.size() == 1) return {box.rows()};
  return {box.rows(), box.cols()};
}

}  // namespace

std::string BytesOfBox(const TinyTensor& tensor, const Box& box) {
  const MatrixShape matrix = MatrixOf(tensor.shape);
  const std::size_t element = formats::DtypeBits(tensor.dtype) / 8;
  std::string bytes;
  for (std::uint64_t row = box.row_begin; row < box.row_end; ++row) {
    for (std::uint64_t col = box.col_begin; col < box.col_end; ++col) {
      bytes +=
          tensor.bytes.substr(static_cast<std::size_t>(row * matrix.cols + col) * element, element);
    }
  }
  return bytes;
}

LayoutPart PartOf(const TinyTensor& tensor, const Box& box) {
  return {tensor.name, box.row_begin, box.row_end, box.col_begin, box.col_end};
}

LayoutTensor& RankShards::Add(const std::string& name, formats::Dtype dtype,
                              const formats::Shape& shape, const std::string& bytes,
                              const std::vector<std::uint32_t>& in, std::vector<LayoutPart> parts,
                              const std::string& rule) {
  for (const std::uint32_t file : in) {
    files.tensors.push_back({layout.files[file].name, name, dtype, shape, bytes});
  }
  layout.tensors.push_back(
      {name, dtype, shape, formats::Xxh3Hex(AsBytes(bytes)), in, rule, std::move(parts)});
  return layout.tensors.back();
}

void RankShards::Remove(const std::string& name) {
  files.Drop(name);
  std::erase_if(layout.tensors, [&](const LayoutTensor& tensor) { return tensor.name == name; });
}

void RankShards::Seal() {
  for (formats::LayoutFile& file : layout.files) {
    const std::string bytes = files.ShardBytes(file.name);
    file.bytes = bytes.size();
    file.header_xxh3 =
        formats::Xxh3Hex(AsBytes(bytes).first(sizeof(std::uint64_t) + HeaderOf(bytes).size()));
  }
  std::sort(layout.tensors.begin(), layout.tensors.end(),
            [](const LayoutTensor& a, const LayoutTensor& b) {
              return a.name != b.name ? a.name < b.name : a.files < b.files;
            });
}

void RankShards::Write(const std::filesystem::path& directory) const {
  files.Write(directory);
  WriteFile(directory / formats::kRankLayoutName, SerializeRankLayout(layout));
}

RankShards EmptyRanks(const TinyCheckpoint& original) {
  RankShards ranks;
  formats::RankLayout& layout = ranks.layout;
  layout.format = "hf-rank";
  layout.grouping = "rank";
  layout.job = std::string(32, '7');
  layout.sizes.world_size = layout.sizes.tp = layout.sizes.moe_tp = 2;
  layout.on_misaligned = "error";
  layout.files = {{kRankFile0, 0, "", ""}, {kRankFile1, 0, "", ""}};
  for (std::uint32_t i = 0; i < 2; ++i) layout.ranks.push_back({i, 0, i, 0, 0, i, {i}, 0, 0});
  layout.source_config = original.config;
  if (original.has_index) layout.source_index = original.IndexText();
  std::set<std::string> shards;
  for (const TinyTensor& tensor : original.tensors) shards.insert(tensor.shard);
  for (const std::string& shard : shards) {
    const std::string bytes = original.ShardBytes(shard);
    layout.source_files.push_back({shard, bytes.size(), HeaderOf(bytes)});
  }
  for (const auto& [name, content] : original.side_files) {
    formats::Sha256 sha256;
    sha256.Update(AsBytes(content));
    layout.side_files.push_back({name, content.size(), sha256.FinishHex(), ""});
  }
  ranks.files.side_files = original.side_files;
  ranks.files.has_index = false;
  return ranks;
}

RankShards CutForTwoRanks(const TinyCheckpoint& original) {
  RankShards ranks = EmptyRanks(original);
  for (const TinyTensor& tensor : original.tensors) {
    const std::vector<Box> boxes = CutInTwo(tensor.shape);
    for (std::uint32_t i = 0; i < boxes.size(); ++i) {
      const std::vector<std::uint32_t> in =
          boxes.size() == 1 ? std::vector<std::uint32_t>{0, 1} : std::vector<std::uint32_t>{i};
      std::vector<LayoutPart> parts;
      if (!boxes[i].empty()) parts.push_back(PartOf(tensor, boxes[i]));
      ranks.Add(tensor.name, tensor.dtype, ShapeOf(tensor.shape, boxes[i]),
                BytesOfBox(tensor, boxes[i]), in, std::move(parts));
    }
  }
  ranks.Seal();
  return ranks;
}

TinyCheckpoint PlainCheckpoint() {
  TinyCheckpoint checkpoint;
  checkpoint.config = TinyConfig();
  checkpoint.has_index = false;
  checkpoint.Add("model.safetensors", "gate", formats::Dtype::kBF16, {6, 5});
  checkpoint.Add("model.safetensors", "norm", formats::Dtype::kBF16, {7});
  checkpoint.Add("model.safetensors", "up", formats::Dtype::kBF16, {4, 5});
  return checkpoint;
}

void AddOthersWhole(const TinyCheckpoint& original, const std::vector<std::string>& names,
                    RankShards& ranks) {
  for (const TinyTensor& tensor : original.tensors) {
    if (std::find(names.begin(), names.end(), tensor.name) != names.end()) continue;
    ranks.Add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes, {0, 1},
              {PartOf(tensor, Whole(MatrixOf(tensor.shape)))});
  }
}

}  // namespace dsv3::testing
