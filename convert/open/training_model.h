#pragma once

#include "convert/open/open_model.h"
#include "convert/open/training_place.h"

namespace dsv3::convert {

// Opens a training checkpoint: its tensors under their Hugging Face names, each made of the pieces
// that hold it. The model has no shards of its own (OpenedModel::has_own_shards). MTP layers that
// the config counts may all be missing (missing_mtp_layers). Throws Error: kUsage where there is no
// config; kBadInput as TrainingReader does, and for pieces that do not tile their tensor; kIo.
OpenedModel OpenTraining(const TrainingPlace& place, const OpenOptions& options);

}  // namespace dsv3::convert
