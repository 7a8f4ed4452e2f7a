#include "tests/convert/support/reshard.h"

#include <utility>

#include <gtest/gtest.h>

#include "formats/safetensors.h"
#include "tests/support/files.h"

namespace dsv3::testing {

namespace fs = std::filesystem;

void MakeSample(convert::SamplePreset preset, std::uint64_t seed, const fs::path& output) {
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  convert::WriteSample({preset, seed}, output, file_system, progress);
}

convert::ReshardReport RunReshard(const fs::path& input, const fs::path& output,
                                  const convert::ReshardOptions& options,
                                  const convert::RunOptions& run) {
  convert::ReshardRequest request{input, output, options, run};
  if (request.run.threads == 0) request.run.threads = 1;
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::Reshard(request, file_system, progress, stop);
}

convert::MergeReport RunMerge(const fs::path& input, const fs::path& output) {
  convert::JobRequest request;
  request.input = input;
  request.output = output;
  request.run.threads = 1;
  QuickFileSystem file_system;
  convert::ProgressSink progress;
  const convert::StopToken stop;
  return convert::Merge(request, file_system, progress, stop);
}

std::map<std::string, HeldTensor> ReadTensors(const fs::path& file) {
  const std::string bytes = ReadFile(file);
  const formats::SafetensorsHeader header =
      formats::ParseSafetensorsHeader(AsBytes(bytes), bytes.size(), file.filename().string());
  std::map<std::string, HeldTensor> tensors;
  for (const formats::SafetensorsTensor& tensor : header.tensors) {
    tensors[tensor.name] = {
        tensor.dtype, tensor.shape,
        bytes.substr(header.data_offset + tensor.begin, tensor.end - tensor.begin)};
  }
  return tensors;
}

std::map<std::string, HeldTensor> ReadTensors(const fs::path& directory,
                                              const std::vector<std::string>& files) {
  std::map<std::string, HeldTensor> all;
  for (const std::string& file : files) {
    for (auto& [name, tensor] : ReadTensors(directory / file)) {
      EXPECT_TRUE(all.emplace(name, std::move(tensor)).second) << file << ": " << name;
    }
  }
  return all;
}

std::map<std::string, HeldTensor> ReadCheckpoint(const fs::path& directory) {
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().filename());
  }
  return ReadTensors(directory, files);
}

HeldTensor CutOut(const HeldTensor& tensor, std::uint64_t row, std::uint64_t rows,
                  std::uint64_t col, std::uint64_t cols) {
  const std::uint64_t element = formats::DtypeBits(tensor.dtype) / 8;
  const bool is_matrix = tensor.shape.size() == 2;
  const std::uint64_t all_rows = tensor.shape.at(0);
  const std::uint64_t all_cols = is_matrix ? tensor.shape[1] : 1;
  HeldTensor cut{tensor.dtype, is_matrix ? formats::Shape{rows, cols} : formats::Shape{rows}, {}};
  for (std::uint64_t i = row; i < row + rows; ++i) {
    cut.bytes += i < all_rows ? tensor.bytes.substr((i * all_cols + col) * element, cols * element)
                              : std::string(cols * element, '\0');
  }
  return cut;
}

}  // namespace dsv3::testing
