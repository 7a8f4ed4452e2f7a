#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/open/model_files.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"

// A checkpoint as training leaves it → the form that inference needs.
namespace dsv3::convert {

inline constexpr char kTrainToInfer[] = "train-to-infer";

// The tensors of the model's MTP layers (behind its num_hidden_layers main ones, however many there
// are), positions in the catalog, ascending.
std::vector<std::uint32_t> FindMtpTensors(const OpenedModel& model);

// Every tensor but `dropped` as it is, in the shard that it was in. A shard that loses nothing
// keeps every byte; one that loses all of its tensors is not written. Index and config.json say
// what is left (num_nextn_predict_layers 0); all their other bytes are as they were. Fills all of
// the plan but the side files.
Plan PlanWithoutTensors(const OpenedModel& model, const ModelFiles& files,
                        const std::vector<std::uint32_t>& dropped);

// The text of config.json for a model without MTP layers.
std::string ConfigWithoutMtp(const OpenedModel& model);

}  // namespace dsv3::convert
