#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "convert/recipes/reshard_job.h"
#include "convert/recipes/sample.h"
#include "formats/dtype.h"
#include "formats/shape.h"
#include "tests/convert/support/quick_file_system.h"

// What tests of rank shards share.
namespace dsv3::testing {

void MakeSample(convert::SamplePreset preset, std::uint64_t seed,
                const std::filesystem::path& output);

// `dsv3-reshard INPUT OUTPUT` with these options.
convert::ReshardReport RunReshard(const std::filesystem::path& input,
                                  const std::filesystem::path& output,
                                  const convert::ReshardOptions& options,
                                  const convert::RunOptions& run = {});

// `dsv3-reshard merge INPUT OUTPUT`.
convert::MergeReport RunMerge(const std::filesystem::path& input,
                              const std::filesystem::path& output);

struct HeldTensor {
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::string bytes;
  friend bool operator==(const HeldTensor&, const HeldTensor&) = default;
};

// The tensors of a safetensors file, by name.
std::map<std::string, HeldTensor> ReadTensors(const std::filesystem::path& file);

// The tensors of several files of a directory. Adds a failure when two files have one name.
std::map<std::string, HeldTensor> ReadTensors(const std::filesystem::path& directory,
                                              const std::vector<std::string>& files);

// The tensors of all safetensors files of a directory that is no rank directory.
std::map<std::string, HeldTensor> ReadCheckpoint(const std::filesystem::path& directory);

// Rows [row, row + rows) and columns [col, col + cols) of a tensor of one or two dimensions, zeros
// beyond its rows.
HeldTensor CutOut(const HeldTensor& tensor, std::uint64_t row, std::uint64_t rows,
                  std::uint64_t col, std::uint64_t cols);

}  // namespace dsv3::testing
