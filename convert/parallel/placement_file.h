#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "convert/model/model_config.h"
#include "convert/parallel/topology.h"

// The files that say where experts are, or how much they are used: JSON objects with one matrix
// that has a row for each main layer. Dense layers have a row, too, which means nothing. Other
// members are skipped.
namespace dsv3::convert {

// The longest file that is read, far longer than the largest deployment's.
inline constexpr std::uint64_t kMaxPlacementBytes = std::uint64_t{64} << 20;

// "physical_to_logical_map" [layers][physical experts]: the rows of layers with routed experts, and
// empty ones for the others. Each row names every expert. Throws Error (kBadInput) with file, layer
// and expert otherwise, or when there is no such file; kIo when it cannot be read.
std::vector<std::vector<std::uint32_t>> ReadExpertLocation(const std::filesystem::path& path,
                                                           const Topology& topology,
                                                           const ModelConfig& config);

// "logical_count" [layers][experts]: how often each expert was chosen, a number from 0 to 1e30. The
// rest as ReadExpertLocation.
std::vector<std::vector<double>> ReadExpertLoad(const std::filesystem::path& path,
                                                const Topology& topology,
                                                const ModelConfig& config);

}  // namespace dsv3::convert
