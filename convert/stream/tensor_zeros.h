#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>

#include "convert/model/zero_runs.h"
#include "convert/stream/record.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::convert {

// The zeros of the weight matrices (IsWeightMatrix, IsCodeMatrix) and E8M0 scales that a tensor is,
// or is made of: what conversions warn of. Their bytes come in pieces, in any order, each byte
// once. Names and shapes outlive it.
class TensorZeros {
 public:
  // Which rows of the matrices are added. Of a vocabulary some rows may be those alone that no
  // token has.
  enum class Rows { kAll, kSome };
  explicit TensorZeros(Rows rows) : rows_(rows) {}

  // A piece of a tensor of `shape`, known by `id`, that begins at its byte `first`. Tensors that
  // are neither weight matrices nor E8M0 scales are left out.
  void Add(std::uint32_t id, std::string_view name, formats::Dtype dtype,
           const formats::Shape& shape, std::uint64_t first, std::span<const std::byte> bytes);

  bool empty() const { return matrices_.empty(); }
  bool has(std::uint32_t id) const { return matrices_.count(id) != 0; }

  // After all pieces: fills the record's all_zero, and zero_runs where a value is not zero.
  void Judge(TensorRecord& record) const;
  // Begins the next tensor.
  void Clear() { matrices_.clear(); }

 private:
  struct Matrix {
    std::string_view name;
    formats::Dtype dtype;
    const formats::Shape* shape;
    bool has_codes;
    bool has_values = false;
    ZeroRuns runs;
  };
  static bool IsHole(const Matrix& matrix, const ZeroRun& run);
  bool MayBePadding(const Matrix& matrix) const;

  Rows rows_;
  std::map<std::uint32_t, Matrix> matrices_;
};

}  // namespace dsv3::convert
