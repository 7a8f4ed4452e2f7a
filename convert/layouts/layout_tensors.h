#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/box.h"
#include "formats/shape.h"

// Tensors of one layout as pieces of the tensors of another. Names and shapes alone: nothing here
// knows a file or a value.
namespace dsv3::convert {

// A tensor as a layout holds it: its name, and its shape when it is whole, whichever ranks hold
// pieces of it.
struct StackTensor {
  std::string name;
  formats::Shape shape;
};

// Whole rows of a source tensor.
struct TensorPart {
  std::uint32_t source = 0;  // position in the list of source tensors
  Box box;                   // of the source tensor, MatrixOf its shape; never empty
};

// A tensor made of parts of others: the elements of its parts, row by row and part after part, are
// its elements.
struct ComposedTensor {
  std::string name;
  formats::Shape shape;
  std::vector<TensorPart> parts;  // at least one
};

// The tensors of a training stack, read as those of a model.
struct LayoutReading {
  // Under their Hugging Face names and in the order of ForEachExpected (model/expected_tensors.h):
  // main layers, then MTP layers. The sources are positions in the list that was read.
  std::vector<ComposedTensor> tensors;
  // How many tensors are not of the model, such as those of an optimizer.
  std::uint64_t skipped = 0;
  // Whether the MTP layers that the config predicts are there; false where it predicts none.
  bool has_mtp = false;
  // Rows of the embedding beyond the config's vocab_size, which no tensor takes.
  std::uint64_t padding_rows = 0;
};

}  // namespace dsv3::convert
