#pragma once

#include <vector>

#include "convert/open/open_model.h"

// What GGUF files are made without; an internal part of compare.h.
namespace dsv3::convert {

// Of each tensor of `model`, by position in its catalog, whether `gguf` may be without it and be
// whole: those of MTP layers unless `gguf` has some, those beside a language model (a vision
// tower's), the head where it is the embedding, tables of RoPE, which follow from the keys, and the
// router's bias in V4's hash layers.
std::vector<bool> FindLeftOutOfGguf(const OpenedModel& model, const OpenedModel& gguf);

}  // namespace dsv3::convert
