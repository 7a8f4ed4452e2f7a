#pragma once

#include <string>

#include "convert/catalog/catalog.h"
#include "convert/model/scaled_weights.h"

// Models that msmodelslim quantised to INT8 (W8A8), between Hugging Face's names and those of
// MindFormers' inference network.
namespace dsv3::convert {

// Whether the model is one of these: every weight in another form than FP8 is an I8 matrix with
// weight_scale and weight_offset, or with deq_scale.
bool IsW8A8Model(const Catalog& catalog, const ScaledWeights& scaled);

// Whether MindFormers has no place for a tensor of such a model: the weight's own scale beside
// deq_scale, which has it in it.
bool IsLeftOutOfW8A8(const Catalog& catalog, const CatalogTensor& tensor);

inline constexpr char kW8A8Description[] = "quant_model_description.json";

// The text of that file, which says of each tensor whether it is quantised, and how.
std::string W8A8Description(const Catalog& catalog);

}  // namespace dsv3::convert
