#include "convert/forward/attend.h"

#include <algorithm>

#include "quant/elementwise.h"
#include "quant/matmul.h"

namespace dsv3::convert {
namespace {

// The rows of a strided matrix, one behind the other.
std::vector<float> Packed(const float* from, std::size_t stride, std::size_t rows,
                          std::size_t columns) {
  std::vector<float> packed(rows * columns);
  for (std::size_t r = 0; r < rows; ++r) {
    std::copy_n(from + r * stride, columns, packed.data() + r * columns);
  }
  return packed;
}

class AttendedRows {
 public:
  AttendedRows(const HeadQueries& rows, const HeadMemory& memory)
      : rows_(rows),
        memory_(memory),
        queries_(Packed(rows.queries, rows.query_stride, rows.count, memory.key_size)),
        rope_queries_(Packed(rows.rope_queries, rows.rope_stride, rows.count, memory.rope_size)) {}

  void Run() {
    const auto attends_to_all = [&](std::size_t r) {
      return rows_.chosen == nullptr || rows_.chosen[r].empty();
    };
    for (std::size_t r = 0; r < rows_.count;) {
      if (!attends_to_all(r)) {
        AttendToChosen(r);
        ++r;
        continue;
      }
      const std::size_t first = r;
      while (r < rows_.count && attends_to_all(r)) ++r;
      AttendToAll(first, r);
    }
  }

 private:
  // The scores of all rows for a position are made together; those of positions behind a row's own
  // are left out then.
  void AttendToAll(std::size_t first, std::size_t end) {
    const std::size_t rows = end - first;
    const std::size_t positions = rows_.position + end;
    std::vector<float> products(positions * rows);
    std::vector<float> rope_products(positions * rows);
    quant::MultiplyF32(queries_.data() + first * memory_.key_size, rows, memory_.key_size,
                       {memory_.keys, positions, memory_.key_stride}, products.data(), rows);
    quant::MultiplyF32(rope_queries_.data() + first * memory_.rope_size, rows, memory_.rope_size,
                       {memory_.rope_keys, positions, memory_.rope_size}, rope_products.data(),
                       rows);
    std::vector<float> weights;
    for (std::size_t r = 0; r < rows; ++r) {
      weights.resize(rows_.position + first + r + 1);
      for (std::size_t i = 0; i < weights.size(); ++i) {
        weights[i] = (products[i * rows + r] + rope_products[i * rows + r]) * rows_.scale;
      }
      quant::SoftmaxInPlace(weights);
      float* const out = Cleared(first + r);
      quant::AddScaledRows(weights.data(), weights.size(), memory_.values, memory_.value_stride,
                           out, memory_.value_size);
    }
  }

  void AttendToChosen(std::size_t r) {
    const std::vector<std::uint32_t>& chosen = rows_.chosen[r];
    std::vector<float> weights(chosen.size());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const std::size_t key = chosen[i];
      const float product = quant::Dot(queries_.data() + r * memory_.key_size,
                                       memory_.keys + key * memory_.key_stride, memory_.key_size);
      const float rope_product =
          quant::Dot(rope_queries_.data() + r * memory_.rope_size,
                     memory_.rope_keys + key * memory_.rope_size, memory_.rope_size);
      weights[i] = (product + rope_product) * rows_.scale;
    }
    quant::SoftmaxInPlace(weights);
    float* const out = Cleared(r);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      quant::AddScaled(weights[i], memory_.values + chosen[i] * memory_.value_stride, out,
                       memory_.value_size);
    }
  }

  float* Cleared(std::size_t r) const {
    float* const out = rows_.out + r * rows_.out_stride;
    std::fill_n(out, memory_.value_size, 0.0F);
    return out;
  }

  const HeadQueries& rows_;
  const HeadMemory& memory_;
  const std::vector<float> queries_;
  const std::vector<float> rope_queries_;
};

}  // namespace

void Attend(const HeadQueries& rows, const HeadMemory& memory) { AttendedRows(rows, memory).Run(); }

}  // namespace dsv3::convert
