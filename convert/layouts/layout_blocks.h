#pragma once

#include <cstdint>

#include "convert/catalog/box.h"
#include "convert/layouts/layout_names.h"
#include "formats/shape.h"

namespace dsv3::convert {

// What the tensors of a model that lie in one tensor of a layout say about it. They lie in blocks
// of equal shape, one for each layer or expert that its first axes count.
class LayoutBlocks {
 public:
  // Takes a tensor of the model, of this shape, that lies at `place`.
  void Add(const LayoutPlace& place, const formats::Shape& shape);

  bool has_tensors() const { return !first_.empty(); }
  // The shape of the layout's tensor, by the tensors in the first block that was added.
  formats::Shape shape() const;
  // Whether all blocks were added, each with all of its rows.
  bool IsFull() const;
  // Whether rows may follow that are no tensor's.
  bool is_padded() const { return is_padded_; }

  // Where in the layout's tensor a tensor at `place` lies, once all were added.
  Box BoxOf(const LayoutPlace& place, const formats::Shape& shape) const;

 private:
  formats::Shape axes_;
  formats::Shape first_;
  std::uint64_t first_block_ = 0;
  std::uint64_t block_rows_ = 0;
  std::uint64_t all_rows_ = 0;
  std::int64_t unpaired_ = 0;
  bool is_padded_ = false;
};

}  // namespace dsv3::convert
