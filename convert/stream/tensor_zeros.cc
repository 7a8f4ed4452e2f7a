#include "convert/stream/tensor_zeros.h"

#include <algorithm>
#include <vector>

#include "convert/model/zero_weights.h"

namespace dsv3::convert {
namespace {

bool AreZeroBytes(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

void TensorZeros::Add(std::uint32_t id, std::string_view name, formats::Dtype dtype,
                      const formats::Shape& shape, std::uint64_t first,
                      std::span<const std::byte> bytes) {
  auto found = matrices_.find(id);
  if (found == matrices_.end()) {
    // A scale of E8M0 whose bytes are zero is 2^-127: it was never written, or is of zeros.
    const bool has_codes = IsCodeMatrix(name, dtype, shape) || dtype == formats::Dtype::kF8E8M0;
    if (!has_codes && !IsWeightMatrix(name, dtype, shape)) return;
    const Matrix matrix{name, dtype, &shape, has_codes, false, ZeroRuns(LeastZeroRun(dtype))};
    found = matrices_.emplace(id, matrix).first;
  }
  Matrix& matrix = found->second;
  if (!matrix.has_values) {
    // Codes are compared byte by byte: a sign is none of theirs.
    matrix.has_values =
        matrix.has_codes ? !AreZeroBytes(bytes) : !AreZero(formats::DtypeBits(dtype) / 8, bytes);
  }
  matrix.runs.Add(first, bytes);
}

bool TensorZeros::IsHole(const Matrix& matrix, const ZeroRun& run) {
  return KindOfZeroRun(matrix.name, matrix.dtype, *matrix.shape, run) == ZeroRunKind::kHole;
}

bool TensorZeros::MayBePadding(const Matrix& matrix) const {
  if (rows_ == Rows::kAll || matrix.has_values || !IsVocabulary(matrix.name)) return false;
  const std::vector<ZeroRun> runs = matrix.runs.Find();
  return std::none_of(runs.begin(), runs.end(),
                      [&](const ZeroRun& run) { return IsHole(matrix, run); });
}

void TensorZeros::Judge(TensorRecord& record) const {
  const bool has_values =
      std::any_of(matrices_.begin(), matrices_.end(), [this](const auto& matrix) {
        return matrix.second.has_values || MayBePadding(matrix.second);
      });
  record.all_zero = !matrices_.empty() && !has_values;
  record.zero_runs = 0;
  if (record.all_zero) return;
  for (const auto& [id, matrix] : matrices_) {
    if (MayBePadding(matrix)) continue;
    for (const ZeroRun& run : matrix.runs.Find()) {
      if (IsHole(matrix, run)) ++record.zero_runs;
    }
  }
}

}  // namespace dsv3::convert
