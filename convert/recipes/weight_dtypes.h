#pragma once

#include <string>
#include <unordered_set>

#include "convert/open/open_model.h"

namespace dsv3::convert {

// The names of the weights that are BF16 (or FP8) in releases, whatever training keeps them in: all
// that the config predicts but the router's bias, which engines add in F32, and the norm of V3.2's
// indexer. Of an unknown model_type all that end with ".weight".
class Bf16Names {
 public:
  explicit Bf16Names(const OpenedModel& model);
  bool Hold(const std::string& name) const;

 private:
  const bool known_;
  std::unordered_set<std::string> names_;
};

// Throws Error (kBadInput) that names file and tensor where a weight of a known model is none:
// neither a float of 16 or 32 bits, nor FP8 with the scales that config.json describes, nor codes
// of a form that is recognised.
void RequireWeights(const OpenedModel& model);

}  // namespace dsv3::convert
