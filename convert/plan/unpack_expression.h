#pragma once

#include <cstdint>
#include <memory>

#include "convert/packing/chunk_tables.h"
#include "convert/packing/packed_file.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::convert {

// Where the chunks of a packed tensor are found.
struct PackedTensorPlace {
  std::shared_ptr<const PackedFileSource> source;
  PackedStream stream;
  std::shared_ptr<ChunkTables> tables;
};

// A tensor of this dtype and shape that is unpacked from its stream, the tensor `stored` of the
// catalog, whose extent is the stream's: rule "unpack". May be cut between packed chunks. The seek
// table of the stream is read when reads are first asked for: AppendReads and evaluating throw
// Error (kBadInput), naming file and tensor, where it or a chunk is damaged. `base` is the value
// that the tensor was packed against, of the same dtype and shape; nullptr for none. Another one
// than that is an error, too.
ExpressionPtr Unpack(std::uint32_t stored, formats::Dtype dtype, formats::Shape shape,
                     PackedTensorPlace place, ExpressionPtr base = nullptr);

}  // namespace dsv3::convert
