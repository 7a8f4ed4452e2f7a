#pragma once

#include <string>
#include <vector>

#include "convert/plan/container.h"
#include "convert/plan/expression.h"
#include "convert/plan/planned_file.h"
#include "formats/gguf_type.h"
#include "formats/gguf_value.h"

namespace dsv3::convert {

// GGUF files as a container: tensors are those of DtypeOfGguf and ShapeOfGguf. Their types and the
// keys are in a header that PlanGgufFile makes, so Header() is never called (Error kInternal).
const Container& Gguf();

// A tensor of a GGUF file: `expression` makes the bytes of `type`.
struct GgufPlanned {
  std::string name;
  formats::GgufType type = formats::GgufType::kF32;
  formats::Shape shape;  // of the values
  ExpressionPtr expression;
};

// Lays a GGUF file out, with its tensors in this order. Throws Error: kBadInput for names that the
// format does not take, kInternal where an expression makes other bytes than the type has.
PlannedFile PlanGgufFile(std::string name, const formats::GgufKeys& keys,
                         std::vector<GgufPlanned> tensors);

}  // namespace dsv3::convert
