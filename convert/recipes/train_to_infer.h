#pragma once

#include "convert/open/open_model.h"
#include "convert/recipes/conversion.h"
#include "convert/recipes/model_edit.h"

// A checkpoint as training leaves it → the form that inference needs.
namespace dsv3::convert {

inline constexpr char kTrainToInfer[] = "train-to-infer";

// The model with all steps that the options ask for: floats to BF16, then the MTP layers, then
// kv_b_proj. A second checkpoint (kGraft) is appended to the model's catalog. Throws Error: see
// mtp_edit.h and mla_edit.h; kBadInput for a weight in F64 or integers that no quantised form
// explains.
ModelEdit EditForInference(const TrainToInferOptions& options, const std::filesystem::path& output,
                           OpenedModel& model);

}  // namespace dsv3::convert
