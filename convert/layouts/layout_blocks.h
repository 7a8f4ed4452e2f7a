#pragma once

#include <cstdint>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/layouts/layout_names.h"
#include "convert/model/model_config.h"
#include "formats/shape.h"

namespace dsv3::convert {

// A box of a tensor of the model and the box of the layout's tensor that holds it.
struct LayoutLink {
  Box model;
  Box stack;
  bool transposed = false;
};

// The matrix that the elements of a tensor of the model make in its links: MatrixOf its shape, but
// a vector is a row where the layout has several of it in one tensor.
MatrixShape ModelMatrix(const LayoutPlace& place, const formats::Shape& shape);

// What the tensors of a model that lie in one tensor of a layout say about it. They lie in blocks
// of equal shape, one for each layer or expert that its first axes count.
class LayoutBlocks {
 public:
  // Takes a tensor of the model, of this shape, that lies at `place`.
  void Add(const LayoutPlace& place, const ModelConfig& config, const formats::Shape& shape);

  bool has_tensors() const { return rank_ > 0; }
  // The shape of the layout's tensor, by the tensors in the first block that was added, and the
  // matrix that its elements make.
  formats::Shape shape() const;
  MatrixShape matrix() const;
  // Whether all blocks were added, each with all of its tensors.
  bool IsFull() const;
  // Whether rows may follow that are no tensor's.
  bool is_padded() const { return is_padded_; }

  // How a tensor that was added lies in the layout's tensor, once all were added; by the order of
  // the layout's rows, or its columns where the rule transposes.
  std::vector<LayoutLink> Links(const LayoutPlace& place, const ModelConfig& config,
                                const formats::Shape& shape) const;

 private:
  std::uint64_t blocks() const;

  RuleAxes form_ = RuleAxes::kApart;
  formats::Shape axes_;
  std::size_t rank_ = 0;  // of the model's tensors
  std::uint64_t first_block_ = 0;
  MatrixShape block_ = {0, 0};
  std::uint64_t elements_ = 0;
  std::int64_t unpaired_ = 0;
  bool is_padded_ = false;
};

}  // namespace dsv3::convert
