#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/forward/dump_comparison.h"
#include "convert/forward/forward_comparison.h"
#include "convert/forward/run_settings.h"
#include "convert/forward/token_ids.h"
#include "convert/layouts/stacks.h"
#include "formats/io/file_system.h"

// A reference forward pass. Weights are read from the files when they are needed, a panel of rows
// at a time, and only those that the tokens meet: rows of the embedding, experts.
//
// The arithmetic is that of transformers in float32, with each sum in one order of its own, so that
// the results of a token are the same bits whatever the threads, the memory, the other sequences,
// or the tokens behind it. docs/forward.md has the formulas.
namespace dsv3::convert {

struct ForwardRequest : RunSettings {
  std::filesystem::path input;  // as OpenModel takes it
  // See OpenOptions.
  std::filesystem::path config = {};
  std::optional<Stack> from = std::nullopt;
  std::filesystem::path base = {};
  std::vector<std::vector<std::uint32_t>> sequences;  // token ids; none: kDefaultTokens fixed ids
  // In place of `sequences`: fixed ids, as many as it takes until every expert of every layer that
  // runs was met, kMostAutoTokens at most.
  bool auto_tokens = false;
  std::uint64_t generate = 0;  // tokens behind each sequence
  std::uint64_t top = 0;       // best next tokens to report, of each sequence
  bool routing = false;        // whether the report has the experts of every token
  // Arrays of floats in NumPy's format; empty: not written. Sequences one after another.
  std::filesystem::path logits;      // [tokens, vocabulary]
  std::filesystem::path hidden;      // [layers + 1, tokens, hidden]: after the embedding and layers
  std::filesystem::path mtp_logits;  // [tokens − sequences, vocabulary], of the first MTP layer
  // Outputs of modules as float32 [tokens, n] in a safetensors file; empty: not written. `modules`
  // is a glob of their names, see module_outputs.h; empty: all.
  std::filesystem::path trace = {};
  std::string modules = {};
  // Module outputs, or logits, of another program, which those of the run are compared with: see
  // dump_file.h; empty: none.
  std::filesystem::path against = {};
  // A second model that is compared with the first, as OpenModel takes it; empty: none.
  std::filesystem::path other = {};
  bool replay_routing = false;  // whether it takes the first one's experts and keys
  bool measure_bf16 = false;    // whether to measure what the first loses with BF16 activations
};

struct NextToken {
  std::uint32_t token = 0;
  float logit = 0;
};

// The experts of one layer, by token.
struct LayerRouting {
  std::uint64_t layer = 0;
  std::vector<std::vector<std::uint32_t>> experts;  // the best first
  // The score of the last one less that of the best expert that was not chosen; infinite where
  // there is none.
  std::vector<float> margins;
};

struct ForwardReport {
  std::filesystem::path directory;  // of the model; absolute
  std::string model_type;
  std::optional<formats::RankLayout::Sizes> ranks;  // nothing without ranks
  std::uint64_t layers = 0;
  std::uint64_t sequences = 0;
  std::uint64_t tokens = 0;  // of all sequences, without those that were generated
  std::uint64_t bytes_read = 0;
  std::uint64_t experts = 0;       // in all layers that ran
  std::uint64_t experts_read = 0;  // that a token met
  // Of one sequence of two tokens or more: exp of the mean of −log p of each token behind the
  // first.
  std::optional<double> perplexity;
  std::vector<std::vector<std::uint32_t>> generated;  // by sequence; empty without `generate`
  std::vector<std::vector<NextToken>> top;            // by sequence, the best first
  std::vector<LayerRouting> routing;
  std::optional<ForwardComparisonReport> comparison;
  // Of ranks without another model: modules that give another output on some ranks, for these have
  // other copies of a tensor.
  std::vector<ModuleDifference> rank_differences;
  std::optional<DumpReport> against;
  std::vector<std::string> warnings;
};

// Throws Error: kUsage for tokens that the vocabulary lacks, for MTP logits of a model without an
// MTP layer or of sequences of one token, and where an output cannot be written, and for a glob
// that no module matches; kBadInput for what OpenModel does not take, for what ParseForwardConfig
// does not know, and for weights that are missing, of another shape or not finite, with the tensor,
// and for what DumpComparison does not take; kIo; kInterrupted. Outputs appear whole or not at all.
ForwardReport RunForward(const ForwardRequest& request, formats::FileSystem& fs,
                         ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
