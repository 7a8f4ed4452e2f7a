#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/layouts/stacks.h"
#include "convert/model/quantized_form.h"
#include "convert/verify/verification.h"
#include "formats/rank_layout.h"

namespace dsv3::convert {

struct StructureRequest {
  std::filesystem::path input;  // as OpenModel takes it
  // See OpenOptions.
  std::filesystem::path config = {};
  std::optional<Stack> from = std::nullopt;
  std::filesystem::path base = {};
};

// What a training checkpoint holds; all defaults where it has faults.
struct TrainingStructure {
  std::string stack;                     // whose names the tensors have
  std::uint64_t skipped = 0;             // tensors that are not of the model
  std::uint64_t missing_mtp_layers = 0;  // that the config counts, and none is there
};

// What layout.json of rank shards says; all defaults where it cannot be read.
struct RankStructure {
  std::string format;  // as formats::RankLayout
  std::string grouping;
  formats::RankLayout::Sizes sizes;
};

struct StructureReport {
  // check is "structure"; files are the weights files, the index and config.json, as far as they
  // are there. docs/verify.md lists the kinds of the findings.
  Verification verification;
  std::filesystem::path directory;  // the one that holds the files; absolute
  std::string model_type;           // of config.json; empty where that cannot be read
  // Whether model_type is one whose tensors are known, so that they could be compared.
  bool known_model = false;
  std::uint64_t expected_tensors = 0;  // that the config predicts, without scales
  std::uint64_t tensors = 0;           // that the headers hold, scales included
  std::uint64_t tensor_bytes = 0;      // of those, without headers
  // The forms of quantised weights that are not read as FP8.
  std::vector<FormCount> forms;
  // Of a directory of rank shards; then `tensors` are those of the model, each once, or of all rank
  // files where these have faults.
  std::optional<RankStructure> ranks;
  // Of a training checkpoint; then `tensors` are those of the model.
  std::optional<TrainingStructure> training;
  // A GGUF file, or a model of several. Then model_type is the architecture, known_model whether
  // its keys predict the tensors, and `tensors` are those of the files.
  bool is_gguf = false;
};

// Judges a checkpoint by headers, index and config.json alone: that the files can be read, index
// and headers hold the same tensors, each once, total_size is their sum; that names, shapes and
// dtypes are those that the config predicts, every FP8 weight has its scales, and the config has a
// quantization_config exactly where there are quantised weights. All findings, in the order of
// files (what concerns no file first) and, within one, of its data; equal for equal files. A fault
// of one file, config.json included, does not keep the others from being judged: nothing is said
// about the tensors of a file that cannot be read, and nothing that needs the config without it.
// Rank shards are judged by their layout.json instead: files, headers and slices against each
// other; a training checkpoint by whether the model can be put together, where the first fault is
// the only one. Of GGUF files the tensors are held against those that the keys predict. Of a
// conversion that is not finished nothing but that is said.
// Throws Error where there is nothing to judge: kUsage for a shard that an index beside it lists,
// or a training checkpoint without a config; kBadInput for a path that does not exist, a directory
// without a checkpoint, an empty weight_map, or a GGUF file that OpenGguf refuses; kIo for a
// directory that cannot be listed.
StructureReport VerifyStructure(const StructureRequest& request);

}  // namespace dsv3::convert
