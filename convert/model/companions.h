#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "convert/catalog/catalog.h"
#include "convert/model/form_evidence.h"
#include "formats/dtype.h"

// Which tensors belong beside the codes of a weight. Internal to convert/model.
namespace dsv3::convert {

// Whether it is the dtype of weights that were never quantised.
bool IsPlainFloat(formats::Dtype dtype);

// Whether any tensor may be a part in the sense of FindForeignPart that is not the scale of an FP8
// weight. Without one no FP8 weight has a foreign part.
bool HasPartsBeyondScales(const Catalog& catalog);

// A part beside the codes that only other forms keep there; empty: there is none. `own` are parts
// of the form itself.
std::string_view FindForeignPart(const FormEvidence& evidence,
                                 std::span<const std::string_view> own);

// The first of these parts that is not there; empty: all are.
std::string_view FindMissingPart(const FormEvidence& evidence,
                                 std::span<const std::string_view> needed);

// What is wrong with a tensor that belongs beside codes, by its name, where there are none; nothing
// where there are codes, or where the name may be that of something else.
std::optional<std::string> DescribeOrphan(const Catalog& catalog, std::uint32_t tensor);

}  // namespace dsv3::convert
