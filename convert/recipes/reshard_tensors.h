#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/layouts/keys_file.h"
#include "convert/open/open_model.h"
#include "convert/parallel/expert_placement.h"
#include "convert/parallel/slicing.h"
#include "convert/parallel/topology.h"
#include "convert/plan/expression.h"

// What the ranks hold, before it has a place in any file. Internal to the reshard recipe.
namespace dsv3::convert {

// A part of a tensor of the model.
struct RankPart {
  std::uint32_t sliced = 0;  // position in Slicing::tensors
  std::uint32_t part = 0;    // of its ways
  friend bool operator==(const RankPart&, const RankPart&) = default;
  // clang-tidy 14 takes the 0 of a default <=> for a pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const RankPart&, const RankPart&) = default;
};

// A tensor of rank files.
struct RankTensor {
  std::string name;
  ExpressionPtr expression;          // a slice
  std::vector<RankPart> parts;       // one behind the other
  std::vector<std::uint32_t> ranks;  // that hold it, ascending
  // Tensors of one unit, which stand together, are never parted: a weight with its scales.
  std::uint32_t unit = 0;
};

// How the whole of each tensor is made that parts are cut out of.
class Origins {
 public:
  // `scaled`: the quantised weights of the model's catalog that PlanSlicing had. All must outlive
  // the origins. Throws Error (kUsage) where a weight of rank shards were to be dequantised.
  Origins(const OpenedModel& model, const std::vector<ScaledWeight>& scaled,
          const Slicing& slicing);

  const ExpressionPtr& Of(std::uint32_t sliced) const { return origins_[sliced]; }
  // LayoutTensor::rule of what is cut out of each, by position in Slicing::tensors.
  const std::vector<std::string_view>& rules() const { return rules_; }

 private:
  std::vector<ExpressionPtr> origins_;  // by position in Slicing::tensors
  std::vector<std::string_view> rules_;
};

// The most tensors that all ranks may hold together, so that plans fit the memory: DeepSeek-V3 has
// 1.5 million in 16 tensor parallel ranks and 0.6 million in 320 expert parallel ones.
inline constexpr std::uint64_t kMaxRankTensors = std::uint64_t{1} << 23;

// What the ranks hold of a sliced model, as all formats need it.
struct SharedModel {
  const OpenedModel& model;
  const Topology& topology;
  const std::optional<ExpertPlacement>& placement;
  const Slicing& slicing;
  const Origins& origins;

  const std::string& NameOf(std::uint32_t sliced) const {
    return model.catalog.tensors()[slicing.tensors[sliced].tensor].name;
  }
};

// Positions in Slicing::tensors in the order in which files are filled: the catalog's, but that
// scales follow their weight.
std::vector<std::uint32_t> FillingOrder(const SharedModel& shared);

// Counts what ranks hold; throws Error (kUsage) where it is more than kMaxRankTensors.
class RankTensorCount {
 public:
  void Add(std::size_t tensors);

 private:
  std::uint64_t count_ = 0;
};

// Every tensor's every part, under the name that `naming` gives.
enum class TensorNaming { kHuggingFace, kDeepseek };
std::vector<RankTensor> TensorsByName(const SharedModel& shared, TensorNaming naming);

// The same under an engine's keys. Tensors that no key takes are added to `untaken` by name. Throws
// Error (kBadInput), naming key, rank, expected and found, for a source that the model has not and
// a key whose dtype or shape is not what its sources give. `file` is the name for errors.
std::vector<RankTensor> TensorsByKey(const SharedModel& shared, const std::vector<EngineKey>& keys,
                                     const std::string& file, std::vector<std::string>& untaken);

// The rows and columns of a part that its tensor has; no rows where all of it is padding.
Box HeldBox(const SharedModel& shared, const RankPart& part);

}  // namespace dsv3::convert
