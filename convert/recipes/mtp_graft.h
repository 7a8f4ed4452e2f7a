#pragma once

#include <filesystem>

#include "convert/open/open_model.h"
#include "convert/recipes/model_edit.h"
#include "convert/recipes/train_to_infer.h"

namespace dsv3::convert {

// The option's name, which marks the other model's files in a catalog and in the manifest.
inline constexpr char kMtpFrom[] = "mtp-from";

// --mtp graft: the MTP layers of the model options.mtp_from, in shards of their own, behind a model
// that has none; num_nextn_predict_layers counts them. F32 and F16 weights become BF16 as the
// model's own do. Appends that model to the model's catalog; edit.grafted_from says how its tensors
// are made, where they are in no file as they are. Throws Error: kBadInput where the model has MTP
// layers or the other one has none, where their tensors have other shapes than the config predicts,
// or the two have weights in different forms (FP8 goes into FP8, BF16 into BF16); and as OpenModel
// does, with `base` as OpenOptions::base (messages begin with "--mtp-from DIR: ").
void GraftMtp(const TrainToInferOptions& options, const std::filesystem::path& base,
              const std::filesystem::path& output, OpenedModel& model, ModelEdit& edit);

}  // namespace dsv3::convert
