#pragma once

#include <cstdint>
#include <string>

#include "convert/model/model_config.h"
#include "convert/parallel/topology.h"

// Which sizes of parallel groups fit together, and fit a model.
namespace dsv3::convert {

inline constexpr std::uint64_t kMaxWorldSize = 65'536;
// Physical experts for each logical one.
inline constexpr std::uint64_t kMaxReplicas = 256;

// The options with what follows from them (see PlanTopology), not checked. moe_tp is 0 where ep
// does not divide the ranks of a stage, or they are more than kMaxWorldSize.
Topology CompleteSizes(const ParallelOptions& options, const ModelConfig& config);

// The elements that an option's ranks divide; 0 where the model has nothing of the kind.
std::uint64_t DenseWidth(const ModelConfig& config);
std::uint64_t SharedExpertWidth(const ModelConfig& config);

// The first rule that the sizes break, as a sentence without its end; empty when they fit. Fast:
// no loop over ranks or experts.
std::string SizeProblem(const Topology& sizes, const ModelConfig& config);

}  // namespace dsv3::convert
