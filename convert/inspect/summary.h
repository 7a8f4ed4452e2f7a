#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/model/model_config.h"
#include "formats/dtype.h"
#include "formats/finding.h"
#include "formats/shape.h"

// What a checkpoint holds, short enough to read: repeated layers and experts become one.
namespace dsv3::convert {

struct ScaleTensor {
  std::string name;  // last component, such as "weight_scale_inv"
  formats::Dtype dtype = formats::Dtype::kF32;
  formats::Shape shape;
};

// A node of the tree of names. Names are cut at their dots; numbers below one parent whose subtrees
// are equal in names, dtypes and shapes share a node, whatever the names mean.
struct SummaryNode {
  enum class Kind {
    kGroup,   // a component of names, "self_attn"
    kRange,   // numbers: "61", "[3-60]", "[0-2,5]"
    kTensor,  // a last component
  };
  Kind kind = Kind::kGroup;
  std::string name;
  std::uint64_t tensors = 0;  // that it represents, scales left out
  // Their elements, of packed codes the values; without scales and what else lies beside codes.
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;  // scales included
  // kTensor only:
  formats::Dtype dtype = formats::Dtype::kU8;
  formats::Shape shape;
  std::vector<ScaleTensor> scales;  // beside it
  // In order of names, ranges by their first number.
  std::vector<SummaryNode> children;
};

struct DtypeTotal {
  formats::Dtype dtype = formats::Dtype::kU8;
  std::uint64_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
  std::uint64_t packed_bytes = 0;  // of a packed checkpoint, as they are stored; 0 for others
};

struct Summary {
  SummaryNode root;  // kGroup without a name
  std::uint64_t files = 0;
  std::uint64_t file_bytes = 0;  // headers included
  std::uint64_t tensors = 0;     // scales included
  std::uint64_t tensor_bytes = 0;
  std::uint64_t scales =
      0;  // tensors that hold quantisation scales; their elements are no parameters
  std::uint64_t scale_elements = 0;
  std::uint64_t scale_bytes = 0;
  std::uint64_t parameters = 0;  // without MTP layers
  // Parameters that one token meets: all but those of the routed experts that are not chosen, and
  // of the embedding one row. Nothing where the config names no experts or none were found.
  std::optional<std::uint64_t> activated_parameters;
  std::uint64_t mtp_tensors = 0;  // layers from num_hidden_layers on, or below "mtp."
  std::uint64_t mtp_parameters = 0;
  std::uint64_t mtp_bytes = 0;     // scales included
  std::vector<DtypeTotal> dtypes;  // scales included; most bytes first
};

// `config` may be nullptr: activated parameters and MTP layers by number are then unknown.
// Time and memory grow linearly with the catalog.
Summary Summarize(const Catalog& catalog, const ModelConfig* config);

}  // namespace dsv3::convert
