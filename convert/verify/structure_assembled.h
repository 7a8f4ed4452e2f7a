#pragma once

#include "convert/open/open_model.h"
#include "convert/verify/structure.h"

// Rank shards, training checkpoints and GGUF files as VerifyStructure judges them; an internal part
// of structure.h. The models of the first two were opened with kReportAll.
namespace dsv3::convert {

// Judges a directory of rank shards by its layout.json: every file that it lists is there, readable
// and of this job, holds the tensors of its table and no others; the slices give every tensor of
// the original once. docs/verify.md lists the kinds.
StructureReport JudgeRanks(OpenedModel& model);

// Judges a training checkpoint by what it took to put the model's tensors together: every tensor
// that the config predicts is there, whole and once, with its shape.
StructureReport JudgeTraining(OpenedModel& model);

// Judges GGUF files by the tensors that their keys predict.
StructureReport JudgeGguf(const OpenedModel& model);

}  // namespace dsv3::convert
