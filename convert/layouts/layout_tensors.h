#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/box.h"
#include "convert/catalog/name_pattern.h"
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

// A box of a source tensor, and where in the composed tensor it goes.
struct TensorPart {
  std::uint32_t source = 0;  // position in the list of source tensors
  // The matrix that the source's elements make, row by row, and a box of it that is never empty.
  // The matrix is MatrixOf the source's shape except where a layout declares another shape for the
  // same elements.
  MatrixShape matrix;
  Box box;
  bool transposed = false;  // whether the box's columns become rows
  std::uint64_t row = 0;    // of the part's first element in the composed tensor's matrix
  std::uint64_t col = 0;
};

// A tensor made of parts of others, which tile its matrix and come by row, then by column.
struct ComposedTensor {
  std::string name;
  formats::Shape shape;
  MatrixShape matrix;             // that its elements make, row by row; mostly MatrixOf its shape
  std::vector<TensorPart> parts;  // at least one
};

// The tensors of a training stack, read as those of a model.
struct LayoutReading {
  // Under their Hugging Face names and in the order of ForEachExpected (model/expected_tensors.h):
  // main layers, then MTP layers. The sources are positions in the list that was read. Every part
  // has all columns of its tensor, so the elements of the parts, one part after the other, are the
  // tensor's.
  std::vector<ComposedTensor> tensors;
  // The tensors that are not of the model, such as those of an optimizer.
  PatternCounts skipped;
  // Whether the MTP layers that the config predicts are there; false where it predicts none.
  bool has_mtp = false;
  // Rows of the embedding beyond the config's vocab_size, which no tensor takes.
  std::uint64_t padding_rows = 0;
};

}  // namespace dsv3::convert
