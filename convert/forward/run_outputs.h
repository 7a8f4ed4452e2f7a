#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "convert/forward/array_output.h"
#include "convert/forward/dump_comparison.h"
#include "convert/forward/forward.h"
#include "convert/forward/model_weights.h"
#include "convert/forward/module_outputs.h"
#include "convert/forward/trace_output.h"
#include "convert/model/model_config.h"
#include "formats/io/file_system.h"

// An internal part of forward.h.
namespace dsv3::convert {

// The files that a request asks for, and the dump that its outputs are compared with.
struct RunOutputs {
  // `mtp_tokens`: rows of the MTP layer. All arguments but the numbers must outlive the object.
  // Throws Error where a file cannot be written, and what TraceOutput and DumpComparison throw.
  RunOutputs(formats::FileSystem& fs, const ForwardRequest& request, const ModelConfig& config,
             ModelWeights& weights, std::uint64_t tokens, std::uint64_t mtp_tokens);

  // Those that take the outputs of modules.
  std::vector<ModuleOutputs*> OfModules();
  // Names the files.
  void Commit();

  ArrayOutput logits;
  ArrayOutput hidden;
  ArrayOutput mtp_logits;
  std::optional<TraceOutput> trace;
  std::optional<DumpComparison> against;
};

}  // namespace dsv3::convert
