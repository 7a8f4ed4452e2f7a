#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/forward/forward.h"
#include "formats/io/file_system.h"
#include "quant/codec.h"
#include "tests/convert/forward/forward_models.h"

// Comparisons of a model with changed copies of it.
namespace dsv3::testing {

using Tensors = std::map<std::string, HeldTensor>;

// Changes the values of a BF16 or F32 tensor.
using Change = std::function<void(std::vector<float>&, std::size_t cols)>;

inline void Edit(Tensors& tensors, const std::string& name, const Change& change) {
  HeldTensor& tensor = tensors.at(name);
  const bool is_float = tensor.dtype == formats::Dtype::kF32;
  std::vector<float> values(tensor.bytes.size() / (is_float ? 4 : 2));
  std::vector<std::uint16_t> codes(values.size());
  if (is_float) {
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  } else {
    std::memcpy(codes.data(), tensor.bytes.data(), tensor.bytes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) values[i] = quant::DecodeBF16(codes[i]);
  }
  change(values, tensor.shape.back());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = quant::EncodeBF16(values[i]);
  std::memcpy(tensor.bytes.data(),
              is_float ? static_cast<const void*>(values.data()) : codes.data(),
              tensor.bytes.size());
}

inline void Scale(std::vector<float>& values, std::size_t) {
  for (float& value : values) value *= 1.01F;
}
inline void SwapHeads(std::vector<float>& values, std::size_t cols) {
  const auto half = static_cast<std::ptrdiff_t>(values.size() / cols / 2 * cols);
  std::swap_ranges(values.begin(), values.begin() + half, values.begin() + half);
}
inline void ZeroRow(std::vector<float>& values, std::size_t cols) {
  std::fill_n(values.begin(), cols, 0.0F);
}
inline void Disturb(std::vector<float>& values, std::size_t) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += i % 2 == 0 ? 0.25F : -0.5F;
}

class ForwardComparisonTest : public ForwardModelsTest {
 protected:
  // A copy of a model, of the BF16 one by default, with changed tensors.
  std::filesystem::path Changed(const char* name, const std::map<std::string, Change>& changes,
                                const std::filesystem::path& model = Bf16()) {
    Tensors tensors = ReadCheckpoint(model);
    for (const auto& [tensor, change] : changes) Edit(tensors, tensor, change);
    WriteTensors(tensors, model, dir_ / name);
    return dir_ / name;
  }

  static convert::ForwardRequest Request(const std::filesystem::path& other) {
    convert::ForwardRequest request;
    request.input = Bf16();
    request.other = other;
    request.sequences = {{3, 141, 59, 26, 5, 35, 89, 79, 32, 38}, {7, 11, 300}};
    return request;
  }
  static convert::ForwardComparisonReport Compare(const convert::ForwardRequest& request) {
    convert::ProgressSink progress;
    return *convert::RunForward(request, formats::PosixFileSystem(), progress, {}).comparison;
  }
  static convert::ForwardComparisonReport Compare(const std::filesystem::path& other) {
    return Compare(Request(other));
  }

  // "tensor relation" of each difference.
  static std::vector<std::string> Differences(const convert::ForwardComparisonReport& report) {
    std::vector<std::string> found;
    for (const convert::ModuleDifference& difference : report.differences) {
      found.push_back((difference.tensor.empty() ? difference.module : difference.tensor) + " " +
                      convert::RelationName(difference.relation));
    }
    return found;
  }
};

}  // namespace dsv3::testing
