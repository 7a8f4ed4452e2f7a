#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/open/gguf_model.h"
#include "formats/gguf_type.h"
#include "formats/shape.h"

namespace dsv3::convert {

// What GGUF files hold, with tensors that are equal but for their block's number as one.
struct GgufSummary {
  // Tensors of one type and shape whose names differ in their first number alone.
  struct Group {
    std::string name;  // "blk.[3-60].ffn_gate_exps.weight"
    formats::GgufType type = formats::GgufType::kF32;
    formats::Shape shape;
    std::uint64_t tensors = 0;
    std::uint64_t parameters = 0;  // of all
    std::uint64_t bytes = 0;
  };
  struct TypeTotal {
    formats::GgufType type = formats::GgufType::kF32;
    std::uint64_t tensors = 0;
    std::uint64_t elements = 0;
    std::uint64_t bytes = 0;
  };

  std::string architecture;  // general.architecture; empty where the file does not say
  std::uint64_t files = 0;
  std::uint64_t file_bytes = 0;  // headers included
  std::uint64_t tensors = 0;
  std::uint64_t tensor_bytes = 0;
  std::uint64_t parameters = 0;  // elements but those of integers
  // Those that one token meets: of stacked experts the chosen ones, of the embedding one row.
  // Nothing where the keys name no experts or no stack was found.
  std::optional<std::uint64_t> activated_parameters;
  std::vector<TypeTotal> types;  // most bytes first
  std::vector<Group> groups;     // in the order of their first tensors
};

GgufSummary SummarizeGguf(const GgufModel& model);

}  // namespace dsv3::convert
