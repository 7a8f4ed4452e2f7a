#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "convert/catalog/catalog.h"
#include "convert/packing/chunk_tables.h"
#include "convert/plan/expression.h"

namespace dsv3::convert {

// Where the chunks of a packed tensor are found.
struct PackedTensorPlace {
  std::shared_ptr<const PackedFileSource> source;
  std::size_t tensor = 0;  // position in source->file.tensors()
  std::shared_ptr<ChunkTables> tables;
};

// A tensor that is unpacked from its stream, a tensor of the catalog whose extent is the stream's:
// rule "unpack". May be cut between packed chunks. The seek table of the stream is read when reads
// are first asked for: AppendReads and evaluating throw Error (kBadInput), naming file and tensor,
// where it or a chunk is damaged. `base` is the value that the tensor was packed against, of the
// same dtype and shape; nullptr for none. Another one than that is an error, too.
ExpressionPtr Unpack(const Catalog& catalog, std::uint32_t stream, PackedTensorPlace place,
                     ExpressionPtr base = nullptr);

}  // namespace dsv3::convert
