#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convert/plan/slice_expression.h"
#include "convert/recipes/reshard.h"
#include "convert/recipes/reshard_names.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

using Records = std::unordered_map<std::string, FileRecord>;

formats::RankLayout::Sizes SizesOf(const Topology& topology) {
  return {.world_size = topology.world_size(),
          .tp = topology.tp,
          .ep = topology.ep,
          .dp = topology.dp,
          .pp = topology.pp,
          .moe_tp = topology.moe_tp,
          .dense_tp = topology.dense_tp,
          .shared_expert_tp = topology.shared_expert_tp,
          .embed_tp = topology.embed_tp,
          .redundant_experts = topology.redundant_experts};
}

std::vector<formats::LayoutRank> RanksOf(const ReshardPlan& reshard) {
  std::vector<formats::LayoutRank> ranks;
  ranks.reserve(reshard.ranks.size());
  for (std::size_t i = 0; i < reshard.ranks.size(); ++i) {
    const RankReport& report = reshard.ranks[i];
    ranks.push_back({.rank = report.rank.rank,
                     .stage = report.rank.stage,
                     .tp_rank = report.rank.tp_rank,
                     .dp_rank = report.rank.dp_rank,
                     .ep_rank = report.rank.ep_rank,
                     .moe_tp_rank = report.rank.moe_tp_rank,
                     .files = reshard.files_of_rank[i],
                     .bytes = report.bytes,
                     .parameters = report.parameters});
  }
  return ranks;
}

std::vector<formats::LayoutFile> FilesOf(const ReshardPlan& reshard, const Records& records) {
  std::vector<formats::LayoutFile> files;
  files.reserve(reshard.plan.files.size());
  for (const PlannedFile& file : reshard.plan.files) {
    const FileRecord& record = records.at(file.name);
    files.push_back({file.name, record.bytes, record.file.sha256, file.header_digest});
  }
  return files;
}

// What the ranks hold of the model's tensors; padding is not a part.
std::vector<formats::LayoutPart> PartsOf(const ReshardPlan& reshard, const OpenedModel& model,
                                         const RankTensor& tensor) {
  std::vector<formats::LayoutPart> parts;
  const std::vector<SlicePart>& boxes = tensor.expression->slice()->parts();
  parts.reserve(boxes.size());
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    const Box& box = boxes[i].box;
    if (box.empty()) continue;
    const SlicedTensor& sliced = reshard.slicing.tensors[tensor.parts[i].sliced];
    parts.push_back({model.catalog.tensors()[sliced.tensor].name, box.row_begin, box.row_end,
                     box.col_begin, box.col_end});
  }
  return parts;
}

// The tensors without their files and digests.
std::vector<formats::LayoutTensor> TensorsOf(const ReshardPlan& reshard, const OpenedModel& model) {
  std::vector<formats::LayoutTensor> tensors;
  tensors.reserve(reshard.tensors.size());
  for (const RankTensor& from : reshard.tensors) {
    formats::LayoutTensor& tensor = tensors.emplace_back();
    tensor.name = from.name;
    tensor.dtype = from.expression->dtype();
    tensor.shape = from.expression->shape();
    tensor.rule = reshard.rules[from.parts.front().sliced];
    tensor.parts = PartsOf(reshard, model, from);
  }
  return tensors;
}

// Where each tensor lies, and what its bytes are.
void AddPlaces(const ReshardPlan& reshard, const Records& records,
               std::vector<formats::LayoutTensor>& tensors) {
  std::unordered_map<const Expression*, std::uint32_t> position_of;
  position_of.reserve(reshard.tensors.size());
  for (std::uint32_t i = 0; i < reshard.tensors.size(); ++i) {
    position_of.emplace(reshard.tensors[i].expression.get(), i);
  }
  for (std::uint32_t file = 0; file < reshard.plan.files.size(); ++file) {
    const PlannedFile& planned = reshard.plan.files[file];
    const FileRecord& record = records.at(planned.name);
    for (std::size_t i = 0; i < planned.tensors.size(); ++i) {
      formats::LayoutTensor& tensor = tensors[position_of.at(planned.tensors[i].expression.get())];
      const std::string& digest = record.tensors[i].output.xxh3;
      if (!tensor.files.empty() && tensor.xxh3 != digest) {
        throw Error(
            ErrorCode::kInternal,
            formats::ShownPath(planned.name) + ": a tensor differs from that of another rank",
            {planned.name, tensor.name});
      }
      tensor.xxh3 = digest;
      tensor.files.push_back(file);
    }
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const formats::LayoutTensor& a, const formats::LayoutTensor& b) {
              return a.name != b.name ? a.name < b.name : a.files < b.files;
            });
}

std::vector<formats::LayoutSideFile> SideFilesOf(const Plan& plan, const Records& records) {
  std::vector<formats::LayoutSideFile> side_files;
  for (const PlannedSideFile& side : plan.side_files) {
    if (side.source.empty()) continue;
    const FileRecord& record = records.at(side.name);
    const bool has_sha256 = !record.file.sha256.empty();
    side_files.push_back({side.name, record.bytes, record.file.sha256,
                          has_sha256 ? std::string() : record.file.xxh3});
  }
  return side_files;
}

}  // namespace

std::string LayoutText(const ReshardPlan& reshard, const OpenedModel& model,
                       const ModelFiles& files, const std::string& fingerprint,
                       const Records& records) {
  formats::RankLayout layout;
  layout.format = FormatName(reshard.format);
  layout.grouping = GroupingName(reshard.grouping);
  layout.job = fingerprint;
  layout.sizes = SizesOf(reshard.topology);
  layout.on_misaligned = OnMisalignedName(reshard.on_misaligned);
  if (const auto& block = reshard.slicing.recut_block) {
    layout.recut_block = {block->rows, block->cols};
  }
  layout.bf16_modules = reshard.slicing.bf16_modules;
  layout.replicated_modules = reshard.slicing.replicated_modules;
  layout.dropped = reshard.dropped;
  if (reshard.placement) layout.expert_map = reshard.placement->maps();
  layout.ranks = RanksOf(reshard);
  layout.files = FilesOf(reshard, records);
  layout.tensors = TensorsOf(reshard, model);
  AddPlaces(reshard, records, layout.tensors);
  layout.source_config = model.config_text;
  layout.source_index = files.index;
  for (std::size_t i = 0; i < files.headers.size(); ++i) {
    const SourceFile& file = model.catalog.files()[i];
    layout.source_files.push_back(
        {file.name, file.bytes, files.headers[i].substr(sizeof(std::uint64_t))});
  }
  layout.side_files = SideFilesOf(reshard.plan, records);
  return formats::SerializeRankLayout(layout);
}

}  // namespace dsv3::convert
