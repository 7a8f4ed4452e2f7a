#include "convert/parallel/slicing.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/ceil_div.h"
#include "convert/model/activation_scales.h"
#include "convert/model/code_names.h"
#include "convert/model/expected_tensors.h"
#include "convert/model/module_list.h"
#include "convert/parallel/slicing_codes.h"
#include "convert/parallel/slicing_misaligned.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

std::uint64_t& SideOf(MatrixShape& matrix, SliceAxis axis) {
  return axis == SliceAxis::kRows ? matrix.rows : matrix.cols;
}

class Planner {
 public:
  Planner(const Catalog& catalog, const ModelConfig& config,
          const std::vector<ScaledWeight>& scaled, const Topology& topology,
          const SlicingOptions& options)
      : catalog_(catalog),
        config_(config),
        scaled_(scaled),
        topology_(topology),
        options_(options),
        scales_(scaled, catalog.tensors().size()),
        companions_(FindCodeCompanions(catalog, config, scaled)) {}

  Slicing Run() {
    const std::string_view prefix = FindNamePrefix(catalog_);
    slicing_.tensors.reserve(catalog_.tensors_end());
    for (std::uint32_t i = 0; i < catalog_.tensors_end(); ++i) Take(i, prefix);
    SolveMisaligned();
    CutScales();
    return std::move(slicing_);
  }

 private:
  const CatalogTensor& At(std::uint32_t position) const { return catalog_.tensors()[position]; }

  [[noreturn]] void Refuse(std::uint32_t position, const std::string& problem) const {
    const CatalogTensor& tensor = At(position);
    const std::string file = catalog_.files()[tensor.extent.file].DisplayName();
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {}: {}", formats::ShownPath(file),
                            QuoteForMessage(tensor.name), problem),
                {file, tensor.name});
  }

  void Take(std::uint32_t position, std::string_view prefix) {
    const CatalogTensor& tensor = At(position);
    SlicedTensor sliced;
    sliced.tensor = position;
    sliced.place = PlaceOf(tensor.name, prefix, config_);
    if (sliced.place.mtp && !options_.keep_mtp) {
      slicing_.dropped.push_back(tensor.name);
      return;
    }
    CheckExpert(sliced);
    CheckKnown(sliced);
    sliced.padded = MatrixOf(tensor.shape);
    const ScaledWeight* pair = scales_.OfWeight(position);
    if (pair == nullptr) pair = scales_.OfScale(position);
    if (pair != nullptr) {
      sliced.weight = pair->weight;
      sliced.scale = pair->scale;
      sliced.block = pair->block;
      sliced.coded = companions_.coded.contains(pair->weight);
    }
    if (sliced.weight == position) sliced.values = ValuesOfElement(catalog_, *pair);
    if (companions_.all.contains(position)) sliced.values = 0;
    // Scales and zero points have the parts of their weight, which are known later.
    const bool is_whole = companions_.shapes.contains(position);
    if (sliced.scale != position && !companions_.zeros.contains(position) && !is_whole) {
      CutOther(sliced);
      if (sliced.weight == position && sliced.ways > 1) cuts_.push_back(CutOf(sliced, *pair));
    }
    slicing_.tensors.push_back(sliced);
  }

  void CheckExpert(const SlicedTensor& sliced) const {
    if (sliced.place.kind != ModuleKind::kRoutedExpert) return;
    if (!sliced.place.expert) {
      if (topology_.ep == 1 && topology_.moe_tp == 1) return;
      Refuse(
          sliced.tensor,
          "holds all experts of a layer, which --tp and --ep cannot share out; write the "
          "checkpoint with one tensor for each expert first: dsv3-convert layout IN OUT --to hf");
    }
    if (*sliced.place.expert >= topology_.experts) {
      Refuse(sliced.tensor, fmt::format("config.json has {} routed experts (n_routed_experts), so "
                                        "there is none with this number; take config and "
                                        "weights from one checkpoint",
                                        topology_.experts));
    }
  }

  // A whole matrix beside parts of others, such as whole keys beside some of the queries, would
  // pair each rank's heads with the first rank's. Vectors and buffers belong to no head.
  void CheckKnown(const SlicedTensor& sliced) const {
    const TensorPlace& place = sliced.place;
    if (place.kind != ModuleKind::kOther || place.known || !place.layer) return;
    const formats::Shape& shape = At(sliced.tensor).shape;
    const auto long_sides = std::count_if(shape.begin(), shape.end(), [](auto d) { return d > 1; });
    const bool weight =
        place.parameter.starts_with("weight") || place.parameter.starts_with("qweight");
    if (!weight || long_sides < 2) return;
    const std::uint64_t ways =
        std::max({topology_.tp, topology_.dense_tp, topology_.shared_expert_tp, topology_.moe_tp});
    if (ways == 1) return;
    Refuse(sliced.tensor,
           fmt::format("{} ranks divide the weights of its layer, but no rule says which part of "
                       "this matrix belongs to which rank; check that config.json and the weights "
                       "are those of one model. Sizes that leave the layers whole, such as --tp 1 "
                       "with --ep, do not cut it",
                       ways));
  }

  // Cuts a tensor that is not the scales of a quantised weight.
  void CutOther(SlicedTensor& sliced) const {
    const TensorPlace& place = sliced.place;
    const formats::Shape& shape = At(sliced.tensor).shape;
    const std::uint64_t ways = WaysOf(place.kind, topology_);
    const bool is_weight = place.parameter == "weight" || sliced.weight == sliced.tensor;
    if (is_weight && place.axis != SliceAxis::kNone) {
      if (shape.size() == 2) return CutDimension(sliced, AxisOf(sliced), ways);
      if (ways == 1) return;
      Refuse(sliced.tensor,
             fmt::format("has shape {}, expected [rows, columns], which {} ranks divide",
                         formats::ShapeToString(shape), ways));
    }
    // The rows' biases are cut with them; those of a product whose columns are cut belong to the
    // sum over the ranks.
    const bool is_sink = place.module == kAttentionSink;
    if ((place.parameter == "bias" || is_sink) && shape.size() == 1) {
      if (place.axis == SliceAxis::kRows) CutDimension(sliced, SliceAxis::kRows, ways);
      return;
    }
    if (ways > 1 && sliced.padded != MatrixShape{1, 1}) {
      using formats::Dtype;
      const Dtype dtype = At(sliced.tensor).dtype;
      const bool is_float = dtype == Dtype::kBF16 || dtype == Dtype::kF16 || dtype == Dtype::kF32;
      Refuse(sliced.tensor,
             fmt::format(
                 "{} ranks divide its module, but {}{}", ways,
                 is_float ? "no rule says which part of this tensor belongs to which rank"
                          : "how this format is cut is not known here; only BF16, F16 and F32 "
                            "weights are cut, and FP8, INT8, INT4 and FP4 with their scales",
                 place.kind == ModuleKind::kRoutedExpert
                     ? fmt::format(". With --ep {} experts stay whole", topology_.ranks_per_stage())
                     : ""));
    }
  }

  // The axis of a tensor along which its module's weight is cut.
  SliceAxis AxisOf(const SlicedTensor& sliced) const {
    const ScaledWeight* const pair = scales_.OfWeight(sliced.tensor);
    if (pair == nullptr || !AreKeptByColumns(At(sliced.tensor).name)) return sliced.place.axis;
    return sliced.place.axis == SliceAxis::kRows ? SliceAxis::kCols : SliceAxis::kRows;
  }

  void CutDimension(SlicedTensor& sliced, SliceAxis axis, std::uint64_t ways) const {
    std::uint64_t& side = SideOf(sliced.padded, axis);
    const bool vocabulary =
        sliced.place.kind == ModuleKind::kEmbedding || sliced.place.kind == ModuleKind::kHead;
    if (vocabulary && !options_.deepseek) side = PaddedVocabulary(side);
    if (ways == 1) return;
    // In values; whether elements that hold several of them stay whole is judged with the scales.
    const std::uint64_t size = axis == SliceAxis::kCols ? side * sliced.values : side;
    const char* const lines = sliced.place.axis == SliceAxis::kCols ? "columns" : "rows";
    const bool in_groups =
        config_.v4 && (sliced.place.module == "wo_a" || sliced.place.module == "wo_b");
    const std::uint64_t heads = in_groups ? config_.v4->o_groups : config_.num_attention_heads;
    if (sliced.place.kind == ModuleKind::kAttention && heads > 0 && size % heads != 0) {
      Refuse(
          sliced.tensor,
          fmt::format("its {} {} are not those of {}; take config and weights from one checkpoint",
                      size, lines,
                      in_groups ? fmt::format("{} groups of heads (o_groups)", heads)
                                : fmt::format("{} attention heads (num_attention_heads)", heads)));
    }
    if (vocabulary && options_.deepseek && size % ways != 0) RefuseVocabulary(sliced, size, ways);
    if (size % ways != 0 || size == 0) {
      Refuse(sliced.tensor, fmt::format("{} ranks cannot divide its {} {} evenly; take config and "
                                        "weights from one checkpoint, or choose other sizes",
                                        ways, size, lines));
    }
    sliced.axis = axis;
    sliced.ways = ways;
  }

  [[noreturn]] void RefuseVocabulary(const SlicedTensor& sliced, std::uint64_t rows,
                                     std::uint64_t ways) const {
    const CatalogTensor& tensor = At(sliced.tensor);
    throw Error(ErrorCode::kUsage,
                fmt::format("tensor {}: the deepseek format does not pad the vocabulary, and {} "
                            "ranks cannot divide its {} rows evenly; use --tp {}, or --format "
                            "hf-rank",
                            QuoteForMessage(tensor.name), ways, rows, std::gcd(rows, ways)),
                {"", tensor.name});
  }

  void SolveMisaligned() {
    const MisalignedResult result =
        JudgeMisaligned(catalog_, config_, scaled_, topology_, options_, cuts_);
    slicing_.recut_block = result.recut_block;
    if (result.units.empty() || result.recut_block) return;
    const auto misaligned = [&](const SlicedTensor& sliced) {
      return result.units.contains(sliced.place.unit);
    };
    if (options_.on_misaligned == OnMisaligned::kReplicateModule) {
      std::unordered_set<std::string_view> listed;
      for (SlicedTensor& sliced : slicing_.tensors) {
        if (!misaligned(sliced)) continue;
        sliced.axis = SliceAxis::kNone;
        sliced.ways = 1;
        if (listed.insert(sliced.place.unit).second) {
          slicing_.replicated_modules.emplace_back(sliced.place.unit);
        }
      }
      return;
    }
    std::erase_if(slicing_.tensors, [&](const SlicedTensor& sliced) {
      return sliced.scale == sliced.tensor && !sliced.coded && misaligned(sliced);
    });
    for (SlicedTensor& sliced : slicing_.tensors) {
      if (sliced.weight != sliced.tensor || sliced.coded || !misaligned(sliced)) continue;
      sliced.to_bf16 = true;
      slicing_.bf16_modules.emplace_back(ModuleOf(At(sliced.tensor).name));
    }
    DropActivationScales();
  }

  // Nothing reads the scale of activations beside a weight that is BF16.
  void DropActivationScales() {
    std::unordered_set<std::string> names;
    for (const SlicedTensor& sliced : slicing_.tensors) {
      if (!sliced.to_bf16) continue;
      for (std::string& name : ActivationScaleNames(At(sliced.tensor).name)) {
        names.insert(std::move(name));
      }
    }
    std::erase_if(slicing_.tensors, [&](const SlicedTensor& sliced) {
      const std::string& name = At(sliced.tensor).name;
      if (names.count(name) == 0) return false;
      slicing_.dropped.push_back(name);
      return true;
    });
  }

  // Gives the scales the parts of their weights.
  void CutScales() {
    std::vector<std::uint32_t> sliced_of(catalog_.tensors().size(), 0);
    for (std::uint32_t i = 0; i < slicing_.tensors.size(); ++i) {
      sliced_of[slicing_.tensors[i].tensor] = i;
    }
    for (SlicedTensor& scale : slicing_.tensors) {
      if (scale.scale != scale.tensor) continue;
      const ScaledWeight& pair = *scales_.OfScale(scale.tensor);
      const SlicedTensor& weight = slicing_.tensors[sliced_of[scale.weight]];
      // Fused experts are never cut nor padded.
      if (At(scale.weight).shape.size() != 2) continue;
      const quant::BlockShape block =
          scale.coded ? scale.block : slicing_.recut_block.value_or(scale.block);
      const std::uint64_t packed = weight.padded.cols * weight.values;
      if (AreKeptByColumns(At(pair.weight).name)) {
        scale.padded = {ScalesAlong(pair.cols, weight.padded.rows, block.cols),
                        ScalesAlong(pair.rows, packed, block.rows)};
      } else {
        scale.padded = {ScalesAlong(pair.rows, weight.padded.rows, block.rows),
                        ScalesAlong(pair.cols, packed, block.cols)};
      }
      if (weight.ways == 1 || SideOf(scale.padded, weight.axis) == 1) continue;
      scale.axis = weight.axis;
      scale.ways = weight.ways;
    }
    for (SlicedTensor& zeros : slicing_.tensors) {
      const auto found = companions_.zeros.find(zeros.tensor);
      if (found == companions_.zeros.end()) continue;
      const SlicedTensor& scale = slicing_.tensors[sliced_of[found->second->scale]];
      zeros.axis = scale.axis;
      zeros.ways = scale.ways;
    }
  }

  // One scale that spans a dimension spans its padding, too, and goes to every part.
  static std::uint64_t ScalesAlong(std::uint64_t size, std::uint64_t padded, std::uint64_t block) {
    return size > 0 && block >= size ? 1 : CeilDiv(padded, block);
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  const std::vector<ScaledWeight>& scaled_;
  const Topology& topology_;
  const SlicingOptions& options_;
  const ScaleMap scales_;
  const CodeCompanions companions_;
  std::vector<ScaledCut> cuts_;  // in the catalog's order
  Slicing slicing_;
};

// The stages that hold a tensor.
std::vector<std::uint64_t> StagesOf(const TensorPlace& place, const Topology& topology) {
  const std::uint64_t last = topology.pp - 1;
  switch (place.stage) {
    case StageRule::kFirst:
      return {0};
    case StageRule::kLast:
      return {last};
    case StageRule::kFirstAndLast:
      if (last == 0) return {0};
      return {0, last};
    case StageRule::kLayer:
      return {topology.StageOfLayer(*place.layer)};
    case StageRule::kAll:
      break;
  }
  std::vector<std::uint64_t> all(topology.pp);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

Slicing PlanSlicing(const Catalog& catalog, const ModelConfig& config,
                    const std::vector<ScaledWeight>& scaled, const Topology& topology,
                    const SlicingOptions& options) {
  return Planner(catalog, config, scaled, topology, options).Run();
}

Box BoxOf(const SlicedTensor& tensor, std::uint64_t part) {
  Box box = Whole(tensor.padded);
  if (tensor.axis == SliceAxis::kRows) {
    const std::uint64_t rows = tensor.padded.rows / tensor.ways;
    box.row_begin = part * rows;
    box.row_end = box.row_begin + rows;
  } else if (tensor.axis == SliceAxis::kCols) {
    const std::uint64_t cols = tensor.padded.cols / tensor.ways;
    box.col_begin = part * cols;
    box.col_end = box.col_begin + cols;
  }
  return box;
}

std::uint64_t PartOf(const SlicedTensor& tensor, const Rank& rank) {
  // All groups of ranks are aligned runs of a stage's ranks, attention's and the experts' too.
  return rank.stage_rank % tensor.ways;
}

std::vector<std::uint32_t> RanksOf(const SlicedTensor& tensor, std::uint64_t part,
                                   const Topology& topology,
                                   const std::optional<ExpertPlacement>& placement) {
  const TensorPlace& place = tensor.place;
  const std::uint64_t stage_size = topology.ranks_per_stage();
  std::vector<std::uint32_t> ranks;
  const auto append = [&](std::uint64_t begin, std::uint64_t end) {
    for (std::uint64_t rank = begin + part; rank < end; rank += tensor.ways) {
      ranks.push_back(static_cast<std::uint32_t>(rank));
    }
  };
  for (const std::uint64_t stage : StagesOf(place, topology)) {
    const std::uint64_t first = stage * stage_size;
    if (place.kind != ModuleKind::kRoutedExpert || topology.ep == 1) {
      append(first, first + stage_size);
      continue;
    }
    if (!placement || !place.expert || !place.layer) {
      throw Error(ErrorCode::kInternal, "an expert without a placement");
    }
    for (const std::uint64_t ep_rank : placement->RanksOf(*place.layer, *place.expert)) {
      const std::uint64_t begin = first + ep_rank * topology.moe_tp;
      append(begin, begin + topology.moe_tp);
    }
  }
  return ranks;
}
}  // namespace dsv3::convert
