#pragma once

#include <filesystem>
#include <vector>

#include "convert/model/quantized_form.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/open_model.h"
#include "formats/finding.h"

// A model whose values are to be read; an internal part of numeric.h and compare.h.
namespace dsv3::convert {

struct ValueCheckpoint {
  OpenedModel model;     // a config that is missing or at fault is all default
  ScaledWeights scaled;  // its findings and what it does not support left alone
  // Of the weights in other forms: those that can be decoded are among the pairs above, of the
  // others only the bytes mean anything (by position in the catalog).
  std::vector<FormCount> forms;
  std::vector<bool> undecoded;
  // Errors of files, index and config, and what FindUnfinished, FindMissingFiles and
  // FindMissingTensors say of the directory.
  formats::Findings files;
};

// Opens a model as OpenModel does with Faults::kReport and these options' config and from. Throws
// Error (kBadInput) for an unfinished conversion, too.
ValueCheckpoint OpenForValues(const std::filesystem::path& path, const OpenOptions& options);

// Throws the first of the errors in `files` as an Error (kBadInput), with the number of others.
void RequireWhole(const ValueCheckpoint& checkpoint);

}  // namespace dsv3::convert
