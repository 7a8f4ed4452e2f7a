#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/inspect/gguf_summary.h"
#include "convert/inspect/summary.h"
#include "convert/model/model_config.h"
#include "convert/model/quantized_form.h"
#include "convert/open/open_model.h"
#include "formats/checkpoint_files.h"
#include "formats/finding.h"
#include "formats/rank_layout.h"
#include "formats/shape.h"

namespace dsv3::convert {

// A checkpoint as it is shown, contradictions included.
struct Inspection {
  std::filesystem::path path;  // as the user gave it
  formats::CheckpointFiles::Form form = formats::CheckpointFiles::Form::kSingle;
  OpenedModel model;                  // its findings are in `findings`
  std::optional<ModelConfig> config;  // nothing when missing or malformed; findings say so
  Summary summary;
  std::vector<FormCount> forms;  // of weights that conversions do not read
  // What is wrong with files and index; then "no-config" or "bad-config"; what the config predicts
  // and the files lack; then "missing-scale", "wrong-scale-shape" and "scale-without-weight", one
  // for each line of the summary, whose name with ranges is the finding's tensor.
  formats::Findings findings;
  // Of rank shards, without its tensors: then the summary is of the model that they hold, in as
  // many files and bytes as they are.
  std::optional<formats::RankLayout> ranks = std::nullopt;
  // Of GGUF files, under the names and in the types that they have there; `summary` is then empty.
  std::optional<GgufSummary> gguf = std::nullopt;
};

// A tensor as its file has it.
struct InspectedTensor {
  std::string name;
  std::string type;      // the name of its dtype, or of its type in a GGUF file
  formats::Shape shape;  // of the values in a GGUF file
  std::string file;
  Extent extent;
};
// By its position in the catalog.
InspectedTensor InspectedTensorOf(const Inspection& inspection, std::uint32_t position);

// Reads headers, index and config, no weights. Of a tensor that is in two shards the first is
// shown. Throws Error like formats::OpenCheckpointFiles and, so that what is shown is always whole,
// kBadInput (or kIo) for a shard whose header cannot be read, and for rank shards that are not all
// as their layout.json says.
//
// Of `options` config and from are taken, see RequireUsed.
Inspection Inspect(const std::filesystem::path& path, const OpenOptions& options = {});

// Positions in the catalog of the tensor of this name, or of all whose names match a glob. Throws
// Error (kUsage) when there is none, with the most similar name.
std::vector<std::uint32_t> RequireTensors(const Inspection& inspection,
                                          const std::string& name_or_glob);

}  // namespace dsv3::convert
