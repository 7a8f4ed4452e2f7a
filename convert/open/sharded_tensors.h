#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/layouts/layout_tensors.h"
#include "convert/plan/assemble_expression.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/shape.h"

// Tensors that a training checkpoint holds in pieces, and how those of a model are made of them.
namespace dsv3::convert {

// A box of a whole tensor, and where its elements lie: element [i, j, …] of the box is element
// first + i · strides[0] + j · strides[1] + … of the stored tensor.
struct StoredPiece {
  formats::Shape offsets;  // of the box in the whole tensor
  formats::Shape sizes;
  std::uint32_t stored = 0;  // position in the catalog of stored tensors
  std::uint64_t first = 0;
  formats::Shape strides;
};

struct ShardedTensor {
  std::string name;
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::vector<StoredPiece> pieces;
};

// The strides of a tensor whose elements lie one behind the other, row by row.
formats::Shape RowMajorStrides(const formats::Shape& shape);

// Makes the tensors of a model of those of a checkpoint. Refers to both arguments, which must
// outlive it.
class Composer {
 public:
  // Pieces lie in `stored`.
  Composer(const std::vector<ShardedTensor>& tensors, const Catalog& stored);
  ~Composer();
  Composer(const Composer&) = delete;
  Composer& operator=(const Composer&) = delete;

  // Sources of `composed` are positions in `tensors`. Throws Error (kBadInput) that names the
  // tensor: sources of several dtypes, or of elements of less than a byte; elements that no piece
  // holds or several do.
  ExpressionPtr Make(const ComposedTensor& composed);

 private:
  struct MatrixPiece;
  struct Pieces;

  const Pieces& PiecesOf(std::uint32_t source);
  void AddTiles(const TensorPart& part, const std::string& name, std::vector<Tile>& tiles);

  const std::vector<ShardedTensor>& tensors_;
  const Catalog& stored_;
  std::vector<std::unique_ptr<Pieces>> pieces_;  // by position in tensors_, once they are needed
};

}  // namespace dsv3::convert
