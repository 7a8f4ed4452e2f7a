#pragma once

#include <cstdint>
#include <memory>

#include "convert/catalog/catalog.h"
#include "convert/packing/packed_file.h"
#include "convert/plan/expression.h"
#include "formats/dtype.h"
#include "formats/shape.h"

namespace dsv3::convert {

// A tensor that is unpacked from its stream, a tensor of the catalog whose extent is the stream's:
// rule "unpack". May be cut between packed chunks. `chunks` are those of the stream, as
// PackedFile::ReadChunks gives them. Evaluating throws Error (kBadInput), naming file and tensor,
// where a chunk is damaged. `base` is the value that it was packed against, of the same dtype and
// shape; nullptr for none. Another one than that is an error, too.
ExpressionPtr Unpack(const Catalog& catalog, std::uint32_t stream, formats::Dtype dtype,
                     formats::Shape shape, std::shared_ptr<const PackedChunks> chunks,
                     ExpressionPtr base = nullptr);

}  // namespace dsv3::convert
