#pragma once

#include "convert/open/gguf_model.h"
#include "convert/open/open_model.h"
#include "formats/finding.h"

// The tensors that a GGUF file's keys predict against those that are there; an internal part of
// numeric.h and structure.h.
namespace dsv3::convert {

// `model` is of GGUF files, under Hugging Face names without a prefix. Findings, under the files'
// own names:
//   missing-tensor  (error) tensors that the keys predict and that no file holds, all in one; a
//                   warning where llama.cpp takes the embedding for the head
//   wrong-shape     (error) a tensor of another shape
//   bad-key         (error) keys whose numbers are those of no model
//   missing-key     (warning) keys without which nothing is predicted
// Nothing for architectures without names in gguf_names.h.
formats::Findings JudgeGgufTensors(const OpenedModel& model);

}  // namespace dsv3::convert
