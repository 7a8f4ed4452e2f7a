#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/name_pattern.h"
#include "convert/layouts/stacks.h"
#include "convert/model/model_config.h"
#include "convert/open/rank_shards.h"
#include "convert/open/unlisted_tensors.h"
#include "convert/plan/derived_tensors.h"
#include "convert/plan/expression.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/finding.h"
#include "formats/left_behind.h"

namespace dsv3::convert {

struct GgufModel;

// The opened input: a model under Hugging Face's names of tensors, whatever form its files have: a
// directory of shards, a single file, a snapshot of the hub cache, or rank shards, a training
// checkpoint or GGUF files that are put together while they are read. Immutable once opened, so
// threads may share it.
struct OpenedModel {
  std::filesystem::path directory;      // of config and side files; absolute
  std::vector<std::string> side_files;  // relative names, config.json among them
  // Further files beside these, sorted by name. A conversion copies them only with --side-files
  // all.
  std::vector<formats::LeftBehind> left_behind;
  // How the files are found (a checkpoint), and whether readers need an index to find them: not
  // where model.safetensors is the only shard.
  formats::CheckpointFiles::Form form = formats::CheckpointFiles::Form::kSingle;
  bool needs_index = false;
  // The config of the whole model. Without a config, or with a faulty one, all members have their
  // defaults.
  bool has_config = false;
  bool config_given = false;          // whether it is that of OpenOptions::config
  std::optional<Error> config_fault;  // not with Faults::kThrow
  std::string config_text;
  ModelConfig config;
  // With OpenOptions::mtp_may_be_missing: how many MTP layers config_text counts though not one of
  // their tensors is there; `config` counts none.
  std::uint64_t missing_mtp_layers = 0;
  // The model's tensors in the order of its shards. Of rank shards these shards are those of the
  // original, which is not there: files have no path, and extents say where the bytes would lie.
  Catalog catalog;
  // Faults and notes on files, index and headers; only warnings with Faults::kThrow, which then
  // include those of comparing the tensors with the config.
  formats::Findings findings;
  // Not with Faults::kThrow, of an input that is a directory: the unfinished conversions and
  // downloads in it (FindUnfinished), whether that is a conversion of this toolkit, and which files
  // are missing beside those that the index lists (FindMissingFiles).
  formats::Findings unfinished;
  bool half_made = false;
  formats::Findings missing_files;
  UnlistedTensors unlisted;
  std::uint64_t second_copies = 0;  // tensors that are left out, for another shard has them, too
  // With kReportAll: the files of a checkpoint, whose findings, side files and tensors are above;
  // and why the tensors of rank shards or of a training checkpoint cannot be put together. Then,
  // and where files of rank shards have faults, `catalog` is empty, and `ranks` has what is known:
  // the layout, and the stored tensors of sound files.
  std::shared_ptr<const formats::CheckpointFiles> files;
  std::optional<Error> fault;
  // How the tensors are made, where they are in no file as they are; nullptr for a checkpoint.
  std::shared_ptr<const AssembledModel> assembled;
  std::shared_ptr<const RankShards> ranks;  // the same where that is rank shards
  std::shared_ptr<const GgufModel> gguf;    // the same where that is GGUF files, without a config
  // Of a training checkpoint.
  struct Training {
    std::string stack;           // whose names the tensors have: "megatron"; empty for other inputs
    PatternCounts skipped = {};  // tensors that are not of the model, such as an optimizer's
    std::uint64_t padding_rows = 0;         // of the embedding, which are not taken
    std::vector<std::uint32_t> order = {};  // positions in `catalog`, in the model's order
  } training = {};
  std::vector<formats::FreedShard> freed;  // those of OpenOptions

  // Whether the shards of `catalog` are those of the model; a training checkpoint has none, so that
  // a conversion may make others.
  bool has_own_shards() const { return training.stack.empty(); }
};

struct OpenOptions {
  // How faults are reported: as an Error, or as findings. With kReport the tensors of shards that
  // cannot be read are left out, of a tensor in two shards one is kept (DropSecondCopies),
  // and nothing is compared with the config; rank shards and training checkpoints with any fault
  // are refused. kReportAll is for the check of the structure: faults of these and of the index are
  // reported, too, and nothing of an unfinished conversion is opened.
  enum class Faults { kThrow, kReport, kReportAll };
  Faults faults = Faults::kThrow;
  // Shards that an unfinished run freed: their headers are known from there.
  std::vector<formats::FreedShard> freed = {};
  // Whether a model is whole without the MTP layers that its config counts: training may leave them
  // out, but then all of them.
  bool mtp_may_be_missing = false;
  // The model's config.json, for a training checkpoint, and for others that have none. Empty: the
  // one beside the files.
  std::filesystem::path config = {};
  bool takes_config = false;  // whether the command has an option for it, which messages then name
  // Whether GGUF files are opened, and under which names their tensors are known: those of Hugging
  // Face, or, to be listed, the files' own. Commands that write another checkpoint refuse them:
  // values of quantised types are those of the file, not the model's.
  enum class Gguf { kRefuse, kModelNames, kOwnNames };
  Gguf gguf = Gguf::kRefuse;
  // Of GGUF files: what stands before the names of the model's tensors in the checkpoint that they
  // are compared with ("language_model.").
  std::string name_prefix = {};
  // Of a training checkpoint: the stack whose names its tensors have. Nothing: found by the names.
  std::optional<Stack> from = std::nullopt;
  // Of a packed checkpoint that holds differences: what it was packed against. It may be given in
  // vain; whether it was, RequireBaseRead says.
  std::filesystem::path base = {};
};

// Opens `input`, reading headers, index, config and, of rank shards, layout.json and the digests of
// side files; no weights. GGUF files (see OpenGguf) are opened alike with all `faults`. Throws
// Error: kUsage for a shard that an index beside it lists, and for a packed checkpoint that needs a
// base which is not given; kBadInput where there is nothing to open, for rank shards that are not
// all as layout.json says, and with kThrow for an unfinished conversion, for any fault of files,
// index, headers or config and for tensors that the config predicts and that are missing or of
// another shape; kIo.
OpenedModel OpenModel(const std::filesystem::path& input, const OpenOptions& options = {});

// The tensors that plans and readers use, by position in `catalog`. A view of the model, which must
// outlive it.
struct ModelTensors {
  const Catalog& catalog;
  std::vector<DerivedTensors> derived;
  std::filesystem::path directory;  // of the files
};
// The model's tensors, whatever they are stored as.
ModelTensors TensorsOf(const OpenedModel& model);
// The same with those of a second model that was appended to the catalog; `appended`, how these are
// made (OpenedModel::assembled), must outlive the view, too.
ModelTensors TensorsOf(const OpenedModel& model, const AssembledModel* appended);
// The tensors as they are stored: the same for a checkpoint, the rank files' for rank shards. The
// expressions of OriginOf read these.
ModelTensors StoredTensorsOf(const OpenedModel& model);
// How a tensor of the model (a position in OpenedModel::catalog) is made of the stored ones.
ExpressionPtr OriginOf(const OpenedModel& model, std::uint32_t tensor);

// Throws Error (kBadInput) for tensors that the config predicts and that are missing or of another
// shape. Adds warnings to `warnings`.
void RequireModel(const ModelConfig& config, const Catalog& catalog, formats::Findings& warnings);

// OpenOptions::config and `from` are for inputs that need them. Throws Error: kUsage for a config
// beside a model that has its own, kBadInput for a stack that a Hugging Face checkpoint is not of.
void RequireUsed(const OpenOptions& options, const OpenedModel& model);

// Whether a shard must not have this name, because files of this toolkit's own have it.
bool IsReservedName(std::string_view name);

}  // namespace dsv3::convert
