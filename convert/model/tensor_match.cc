#include "convert/model/tensor_match.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "convert/model/quantized_form.h"

namespace dsv3::convert {
namespace {

using formats::Shape;

// The shape of the fused tensor that holds a tensor of an expert.
Shape FusedShape(const ModelConfig& config, const ExpectedTensorView& expected) {
  const std::uint64_t parts = expected.name.ends_with(".down_proj.weight") ? 1 : 2;
  return {config.n_routed_experts, parts * expected.shape[0], expected.shape[1]};
}

// Whether it is the one for which its fused tensor is judged.
bool IsFirstOfFused(std::string_view name) {
  return name.find(".experts.0.") != std::string_view::npos && !name.ends_with(".up_proj.weight");
}

class Matcher {
 public:
  Matcher(const Catalog& catalog, TensorMatch& match) : catalog_(catalog), match_(match) {}

  void Hold(std::uint32_t position) { match_.held.push_back(position); }

  void Compare(std::uint32_t position, Shape shape) {
    Hold(position);
    if (catalog_.tensors()[position].shape == shape) return;
    match_.differences.push_back({position, std::move(shape), {}});
  }

  void CompareCodes(const StoredCodes& codes, const Shape& shape) {
    Hold(codes.position);
    std::vector<Shape> shapes = CodeShapes(codes.form, shape[0], shape[1]);
    const Shape& found = catalog_.tensors()[codes.position].shape;
    if (shapes.empty() || std::find(shapes.begin(), shapes.end(), found) != shapes.end()) return;
    match_.differences.push_back({codes.position, std::move(shapes.front()), codes.form.name});
  }

 private:
  const Catalog& catalog_;
  TensorMatch& match_;
};

}  // namespace

std::string FusedExpertsName(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const std::size_t experts = name.rfind(kExperts);
  if (experts == std::string_view::npos) return "";
  const std::string layer(name.substr(0, experts + kExperts.size()));
  return layer + (name.ends_with(".down_proj.weight") ? "down_proj" : "gate_up_proj");
}

std::uint32_t FindFusedExperts(const Catalog& catalog, std::string_view name) {
  const std::string fused = FusedExpertsName(name);
  return fused.empty() ? Catalog::kNone : catalog.Find(fused);
}

std::optional<KvHalves> FindKvHalves(const Catalog& catalog, std::string_view name) {
  constexpr std::string_view kJoined = ".kv_b_proj.weight";
  if (!name.ends_with(kJoined)) return std::nullopt;
  const std::string attention(name.substr(0, name.size() - kJoined.size()));
  const KvHalves split{catalog.Find(attention + ".k_b_proj.weight"),
                       catalog.Find(attention + ".v_b_proj.weight")};
  if (split.keys == Catalog::kNone || split.values == Catalog::kNone) return std::nullopt;
  return split;
}

void MatchTensor(const ModelConfig& config, const Catalog& catalog,
                 const ExpectedTensorView& expected, TensorMatch& match) {
  match.held.clear();
  match.differences.clear();
  Matcher matcher(catalog, match);
  const std::uint32_t position = catalog.Find(expected.name);
  if (position != Catalog::kNone) {
    const Shape& found = catalog.tensors()[position].shape;
    if (std::equal(expected.shape.begin(), expected.shape.end(), found.begin(), found.end())) {
      matcher.Hold(position);
      return;
    }
  }
  Shape shape(expected.shape.begin(), expected.shape.end());
  if (shape.size() == 2) {
    if (const auto codes = FindCodes(catalog, config, expected.name)) {
      matcher.CompareCodes(*codes, shape);
      return;
    }
  }
  if (position != Catalog::kNone) {
    matcher.Compare(position, std::move(shape));
    return;
  }
  if (expected.role == TensorRole::kExpertLinear) {
    const std::uint32_t fused = FindFusedExperts(catalog, expected.name);
    if (fused != Catalog::kNone) {
      if (IsFirstOfFused(expected.name)) {
        matcher.Compare(fused, FusedShape(config, expected));
      } else {
        matcher.Hold(fused);
      }
      return;
    }
  }
  if (const std::optional<KvHalves> split = FindKvHalves(catalog, expected.name)) {
    matcher.Compare(split->keys, {config.num_attention_heads * config.qk_nope_head_dim, shape[1]});
    matcher.Compare(split->values, {config.num_attention_heads * config.v_head_dim, shape[1]});
    return;
  }
  match.differences.push_back({Catalog::kNone, std::move(shape), {}});
}

}  // namespace dsv3::convert
