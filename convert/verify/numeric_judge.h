#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "convert/stream/source_files.h"
#include "convert/verify/numeric_measure.h"
#include "convert/verify/value_checkpoint.h"
#include "formats/finding.h"
#include "formats/shape.h"

// The findings from what was measured; an internal part of numeric.h.
namespace dsv3::convert {

// "[3, 17]", the element's place in a shape; its number in tensors of another rank than two.
std::string ElementPlace(const formats::Shape& shape, std::uint64_t element);

// A tensor of an MTP layer that must equal one of the main model; positions in the catalog.
struct MtpCopy {
  std::uint32_t copy = 0;
  std::uint32_t main = 0;
};

// The embeddings and heads of MTP layers with their main ones, as far as both are there:
// "model.layers.N.embed_tokens.weight" and "model.layers.N.shared_head.head.weight" under any
// prefix. Where the config ties the head to the embedding, the main head is that.
std::vector<MtpCopy> FindMtpCopies(const Catalog& catalog, const ModelConfig& config);

// All findings of values, in the order of the files and their data; what concerns no file last.
// Reads a panel of both tensors where an MTP copy differs.
formats::Findings JudgeValues(const ValueCheckpoint& checkpoint,
                              const std::vector<Measurement>& measurements,
                              const std::vector<MtpCopy>& copies, SourceFiles& sources);

}  // namespace dsv3::convert
