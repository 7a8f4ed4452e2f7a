#include "formats/rank_layout_check.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "formats/error.h"

namespace dsv3::formats {
namespace {

constexpr std::size_t kMaxShapeDimensions = 64;

void CheckSizes(const RankLayout::Sizes& sizes, const DocumentReader& reader) {
  for (const std::uint64_t size :
       {sizes.world_size, sizes.tp, sizes.ep, sizes.dp, sizes.pp, sizes.moe_tp, sizes.dense_tp,
        sizes.shared_expert_tp, sizes.embed_tp}) {
    // So that no product below overflows.
    if (size == 0 || size > std::numeric_limits<std::uint16_t>::max()) {
      reader.Fail(fmt::format("{} is not a number of ranks", size));
    }
  }
  const std::uint64_t stage = sizes.tp * sizes.dp;
  if (stage * sizes.pp != sizes.world_size) {
    reader.Fail(fmt::format("\"world_size\" is {}, but tp {} times dp {} times pp {} are {}",
                            sizes.world_size, sizes.tp, sizes.dp, sizes.pp, stage * sizes.pp));
  }
  if (sizes.ep * sizes.moe_tp != stage) {
    reader.Fail(fmt::format("a stage has {} ranks, but ep {} times moe_tp {} are {}", stage,
                            sizes.ep, sizes.moe_tp, sizes.ep * sizes.moe_tp));
  }
}

void CheckRanks(const RankLayout& layout, const DocumentReader& reader) {
  const RankLayout::Sizes& sizes = layout.sizes;
  const std::uint64_t stage = sizes.tp * sizes.dp;
  for (std::uint64_t i = 0; i < layout.ranks.size(); ++i) {
    const LayoutRank& rank = layout.ranks[i];
    if (rank.rank != i) reader.Fail(fmt::format("rank {} is not there, or there twice", i));
    const std::uint64_t in_stage = i % stage;
    if (rank.stage != i / stage || rank.tp_rank != in_stage % sizes.tp ||
        rank.dp_rank != in_stage / sizes.tp || rank.ep_rank != in_stage / sizes.moe_tp ||
        rank.moe_tp_rank != in_stage % sizes.moe_tp) {
      reader.Fail(
          fmt::format("the places of rank {} are not those of tp {}, ep {}, dp {} and pp {}", i,
                      sizes.tp, sizes.ep, sizes.dp, sizes.pp));
    }
  }
  if (layout.ranks.size() != sizes.world_size) {
    reader.Fail(fmt::format("it lists {} ranks, but \"world_size\" is {}", layout.ranks.size(),
                            sizes.world_size));
  }
}

void CheckExpertMap(const RankLayout& layout, const DocumentReader& reader) {
  for (const std::vector<std::uint32_t>& layer : layout.expert_map) {
    if (layer.size() == layout.expert_map[0].size()) continue;
    reader.Fail("the layers of \"physical_to_logical_map\" differ in length");
  }
}

// Names that ascend are given once each.
template <typename File>
void CheckNames(const std::vector<File>& files, std::string_view what,
                const DocumentReader& reader) {
  for (std::size_t i = 1; i < files.size(); ++i) {
    if (files[i - 1].name < files[i].name) continue;
    reader.Fail(fmt::format("{} {} is listed twice or not in the order of the names", what,
                            QuoteForMessage(files[i].name)));
  }
}

void CheckTensor(const LayoutTensor& tensor, const DocumentReader& reader) {
  if (tensor.shape.size() > kMaxShapeDimensions || !NumBytes(tensor.dtype, tensor.shape)) {
    reader.Fail(fmt::format("tensor {} of dtype {} and shape {} has no byte size",
                            QuoteForMessage(tensor.name), DtypeName(tensor.dtype),
                            ShapeToString(tensor.shape)));
  }
  std::uint64_t left = *NumElements(tensor.shape);
  for (const LayoutPart& part : tensor.parts) {
    if (part.row_begin >= part.row_end || part.col_begin >= part.col_end) {
      reader.Fail(fmt::format("a part of tensor {} is empty", QuoteForMessage(tensor.name)));
    }
    const std::uint64_t rows = part.row_end - part.row_begin;
    const std::uint64_t cols = part.col_end - part.col_begin;
    if (rows > left / cols) {
      reader.Fail(fmt::format("the parts of tensor {} are more than its shape {}",
                              QuoteForMessage(tensor.name), ShapeToString(tensor.shape)));
    }
    left -= rows * cols;
  }
}

// Their names, files and order.
void CheckTensors(const RankLayout& layout, const DocumentReader& reader) {
  std::vector<std::uint32_t> files;
  for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
    const LayoutTensor& tensor = layout.tensors[i];
    CheckTensor(tensor, reader);
    if (tensor.files.back() >= layout.files.size()) {
      reader.Fail(fmt::format("tensor {} is said to be in file {}, but there are {} files",
                              QuoteForMessage(tensor.name), tensor.files.back(),
                              layout.files.size()));
    }
    if (i > 0 && layout.tensors[i - 1].name > tensor.name) {
      reader.Fail(
          fmt::format("tensor {} is not in the order of the names", QuoteForMessage(tensor.name)));
    }
    if (i == 0 || layout.tensors[i - 1].name != tensor.name) files.clear();
    files.insert(files.end(), tensor.files.begin(), tensor.files.end());
    if (i + 1 < layout.tensors.size() && layout.tensors[i + 1].name == tensor.name) continue;
    std::sort(files.begin(), files.end());
    const auto twice = std::adjacent_find(files.begin(), files.end());
    if (twice == files.end()) continue;
    reader.Fail(fmt::format("tensor {} is listed twice for {}", QuoteForMessage(tensor.name),
                            QuoteForMessage(layout.files[*twice].name)));
  }
}

}  // namespace

void RequireFileNames(const RankLayout& layout, const DocumentReader& reader) {
  CheckNames(layout.files, "file", reader);
  CheckNames(layout.source_files, "file of \"source\"", reader);
  CheckNames(layout.side_files, "side file", reader);
  if (layout.source_files.empty()) reader.Fail("\"source\" lists no files");
}

void RequireSound(const RankLayout& layout, const DocumentReader& reader) {
  CheckSizes(layout.sizes, reader);
  CheckRanks(layout, reader);
  CheckExpertMap(layout, reader);
  CheckTensors(layout, reader);
}

}  // namespace dsv3::formats
