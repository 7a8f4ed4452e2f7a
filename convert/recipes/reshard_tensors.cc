#include "convert/recipes/reshard_tensors.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "convert/layouts/deepseek_names.h"
#include "convert/model/scaled_weights.h"
#include "convert/plan/dequantize_expression.h"
#include "convert/plan/recut_scales_expression.h"
#include "convert/plan/slice_expression.h"
#include "formats/error.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {
namespace {

bool IsScale(const SlicedTensor& tensor) {
  return tensor.scale != SlicedTensor::kNone && tensor.tensor == tensor.scale;
}

// The shape of a part of `value`. Fused experts have three dimensions and are never cut.
formats::Shape ShapeOfPart(const Expression& value, const Box& box, const std::string& name) {
  const formats::Shape& shape = value.shape();
  if (box == Whole(MatrixOf(shape))) return shape;
  if (shape.size() == 1) return {box.rows()};
  if (shape.size() == 2) return {box.rows(), box.cols()};
  throw Error(ErrorCode::kInternal,
              fmt::format("{} of shape {} cannot be cut", name, formats::ShapeToString(shape)),
              {"", name});
}

// Elements that are not whole bytes have no rows that begin with a byte.
void RequireWholeBytes(const CatalogTensor& tensor, const Catalog& catalog) {
  if (formats::DtypeBits(tensor.dtype) >= 8) return;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} is {}, whose elements are less than a byte; expected "
                          "elements of whole bytes, which ranks can share",
                          catalog.files()[tensor.extent.file].name, QuoteForMessage(tensor.name),
                          formats::DtypeName(tensor.dtype)),
              {catalog.files()[tensor.extent.file].name, tensor.name});
}

}  // namespace

Origins::Origins(const OpenedModel& model, const std::vector<ScaledWeight>& scaled,
                 const Slicing& slicing) {
  const ScaleMap scales(scaled, model.catalog.tensors().size());
  origins_.reserve(slicing.tensors.size());
  rules_.reserve(slicing.tensors.size());
  for (const SlicedTensor& sliced : slicing.tensors) {
    const CatalogTensor& tensor = model.catalog.tensors()[sliced.tensor];
    RequireWholeBytes(tensor, model.catalog);
    if (sliced.to_bf16) {
      if (model.assembled) {
        throw Error(ErrorCode::kUsage,
                    fmt::format("--on-misaligned bf16: {} would be dequantised, which needs whole "
                                "weights beside their scales; make the checkpoint with "
                                "dsv3-reshard merge first, or choose another --on-misaligned",
                                QuoteForMessage(tensor.name)),
                    {"", tensor.name});
      }
      origins_.push_back(Dequantize(model.catalog, *scales.OfWeight(sliced.tensor)));
      rules_.push_back(formats::kDequantizeRule);
    } else if (IsScale(sliced) && !sliced.coded && slicing.recut_block &&
               *slicing.recut_block != sliced.block) {
      const ScaledWeight& pair = *scales.OfWeight(sliced.weight);
      origins_.push_back(RecutScales(OriginOf(model, sliced.tensor), pair.rows, pair.cols,
                                     sliced.block, *slicing.recut_block));
      rules_.push_back(formats::kRecutScalesRule);
    } else {
      origins_.push_back(OriginOf(model, sliced.tensor));
      rules_.push_back(formats::kSliceRule);
    }
  }
}

Box HeldBox(const SharedModel& shared, const RankPart& part) {
  const MatrixShape matrix = MatrixOf(shared.origins.Of(part.sliced)->shape());
  const Box box = Intersect(BoxOf(shared.slicing.tensors[part.sliced], part.part), Whole(matrix));
  return box.empty() ? Box{matrix.rows, matrix.rows, 0, matrix.cols} : box;
}

std::vector<std::uint32_t> FillingOrder(const SharedModel& shared) {
  const std::vector<SlicedTensor>& tensors = shared.slicing.tensors;
  std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> scales_of;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (IsScale(tensors[i])) scales_of[tensors[i].weight].push_back(i);
  }
  std::vector<std::uint32_t> order;
  order.reserve(tensors.size());
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (IsScale(tensors[i])) continue;
    order.push_back(i);
    const auto scales = scales_of.find(tensors[i].tensor);
    if (scales != scales_of.end()) {
      order.insert(order.end(), scales->second.begin(), scales->second.end());
    }
  }
  return order;
}

void RankTensorCount::Add(std::size_t tensors) {
  count_ += tensors;
  if (count_ <= kMaxRankTensors) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("these sizes give the ranks more than {} tensors together, more than can "
                          "be planned; ask for fewer ranks, or share the experts out with --ep",
                          kMaxRankTensors));
}

std::vector<RankTensor> TensorsByName(const SharedModel& shared, TensorNaming naming) {
  std::vector<RankTensor> tensors;
  RankTensorCount count;
  std::uint32_t unit = 0;
  for (const std::uint32_t i : FillingOrder(shared)) {
    const SlicedTensor& sliced = shared.slicing.tensors[i];
    const std::string& source_name = shared.NameOf(i);
    const std::string name = naming == TensorNaming::kDeepseek
                                 ? DeepseekName(source_name, sliced.place.mtp)
                                 : source_name;
    const ExpressionPtr& origin = shared.origins.Of(i);
    if (!IsScale(sliced)) ++unit;
    for (std::uint32_t part = 0; part < sliced.ways; ++part) {
      RankTensor tensor;
      tensor.ranks = RanksOf(sliced, part, shared.topology, shared.placement);
      if (tensor.ranks.empty()) continue;
      count.Add(tensor.ranks.size());
      tensor.name = name;
      tensor.unit = unit;
      tensor.parts.push_back({i, part});
      std::vector<SlicePart> boxes = {{origin, HeldBox(shared, tensor.parts.front())}};
      tensor.expression = std::make_shared<SliceExpression>(
          origin->dtype(), ShapeOfPart(*origin, BoxOf(sliced, part), name), std::move(boxes));
      tensors.push_back(std::move(tensor));
    }
  }
  return tensors;
}

}  // namespace dsv3::convert
