#pragma once

#include "convert/open/open_model.h"
#include "convert/recipes/model_edit.h"

// The MTP layers (multi-token prediction): those behind the num_hidden_layers main ones, however
// many there are. DeepSeek-V4 has them under "mtp.".
namespace dsv3::convert {

// --mtp drop: leaves their tensors out, and sets num_nextn_predict_layers to 0. A model that has
// none stays as it is, with a warning.
void DropMtp(const OpenedModel& model, ModelEdit& edit);

// --mtp extract: the draft model that SGLang loads as NextN. The tensors of the MTP layer alone, as
// layer 0, without the embedding and the head, which engines share with the main model; one file,
// an index, and a config with num_hidden_layers 1 and the architecture
// DeepseekV3ForCausalLMNextN. Throws Error (kBadInput) where there is not one MTP layer, and for
// DeepSeek-V4.
void ExtractMtp(const OpenedModel& model, ModelEdit& edit);

// --mtp keep: where the config counts MTP layers and not one of their tensors is there, sets
// num_nextn_predict_layers to 0 and warns.
void KeepMtp(const OpenedModel& model, ModelEdit& edit);

}  // namespace dsv3::convert
