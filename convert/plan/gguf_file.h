#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/plan/container.h"
#include "convert/plan/expression.h"
#include "convert/plan/planned_file.h"
#include "formats/gguf_type.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// GGUF files as a container: tensors are those of DtypeOfGguf and ShapeOfGguf. Their types and the
// keys are in a header that PlanGgufFiles makes, so Header() is never called (Error kInternal).
const Container& Gguf();

// A tensor of a GGUF file: `expression` makes the bytes of `type`.
struct GgufPlanned {
  std::string name;
  formats::GgufType type = formats::GgufType::kF32;
  formats::Shape shape;  // of the values
  ExpressionPtr expression;
};

// Lays the tensors out, in this order, in as many files as it takes for each to hold at most
// `max_bytes` of them (0: one file), as gguf-split cuts them: consecutive tensors, a larger one
// alone, all keys in the first file, and in each its number (split.no, split.count,
// split.tensors.count). Of several files the names are "NAME-00001-of-00003.gguf". Throws Error:
// kBadInput for names that the format does not take and where there would be more than 65,535
// files, kInternal where an expression makes other bytes than the type has.
std::vector<PlannedFile> PlanGgufFiles(const std::string& name, const formats::GgufKeys& keys,
                                       std::vector<GgufPlanned> tensors, std::uint64_t max_bytes);

}  // namespace dsv3::convert
