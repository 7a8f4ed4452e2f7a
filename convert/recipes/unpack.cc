#include "convert/recipes/unpack.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/catalog/glob.h"
#include "convert/job/runner.h"
#include "convert/open/base_tensors.h"
#include "convert/open/model_files.h"
#include "convert/open/packed_model.h"
#include "convert/open/pull_weights_model.h"
#include "convert/packing/packed_manifest.h"
#include "convert/recipes/own_shards.h"
#include "convert/recipes/pull_weights.h"
#include "convert/stream/file_digests.h"
#include "convert/stream/value_checks.h"
#include "formats/error.h"
#include "formats/left_behind.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

// Whether a tensor is wanted; empty: all are.
IsWanted WantedBy(const std::vector<std::string>& globs) {
  if (globs.empty()) return {};
  return [&globs](const std::string& tensor) {
    return std::any_of(globs.begin(), globs.end(),
                       [&](const std::string& glob) { return MatchesGlob(glob, tensor); });
  };
}

// What is known of a packed checkpoint beside its tensors. A plan takes it over: of 90,000 tensors
// it is tens of megabytes.
struct PackedTexts {
  PackedManifest manifest;
  ModelFiles texts;
};

class Planner {
 public:
  Planner(const OpenedModel& model, PackedTexts packed, const std::vector<std::string>& globs,
          const StopToken& stop)
      : model_(model), packed_(std::move(packed)), globs_(globs), stop_(stop) {
    for (const PackedManifestFile& file : packed_.manifest.files) files_[file.name] = &file;
  }

  Plan Make() {
    plan_.recipe = kUnpack;
    plan_.files = PlanOwnShards(model_, std::move(packed_.texts.headers), WantedBy(globs_));
    TakeDigests();
    for (const std::string& name : model_.side_files) TakeSideFile(name);
    globs_.empty() ? TakeWhole() : TakeSome();
    return std::move(plan_);
  }

 private:
  void TakeDigests() {
    const auto listed = packed_.manifest.TensorsByFile();
    for (PlannedFile& file : plan_.files) {
      std::unordered_map<std::string_view, const std::string*> digests;
      const auto found = listed.find(file.name);
      if (found != listed.end()) {
        for (const PackedManifestTensor* const tensor : found->second) {
          digests.emplace(tensor->name, &tensor->xxh3);
        }
      }
      for (PlannedTensor& tensor : file.tensors) tensor.xxh3 = *digests.at(tensor.entry.name);
      if (globs_.empty()) file.sha256 = files_.at(file.name)->sha256;
    }
  }

  void TakeSideFile(const std::string& name) {
    const bool is_list = formats::KindOfLeftBehind(name) == formats::LeftBehindKind::kChecksums ||
                         name == "model.sig";
    if (globs_.empty() || !is_list) {
      plan_.side_files.push_back({name, model_.directory / name, {}, files_.at(name)->sha256});
    } else {
      plan_.left_behind.push_back(
          {name, formats::LeftBehindKind::kChecksums, files_.at(name)->bytes});
    }
  }

  void TakeWhole() {
    plan_.index = std::move(packed_.texts.index).value_or("");
    // What comes last is compared first: no other file is made in vain.
    for (const std::string_view last : {formats::kShardIndexName, formats::kManifestName}) {
      const auto file = files_.find(last);
      if (file != files_.end()) RequireKept(*file->second);
    }
    const auto manifest = files_.find(formats::kManifestName);
    if (manifest == files_.end()) return;
    plan_.manifest = model_.directory / formats::kManifestName;
    plan_.manifest_sha256 = manifest->second->sha256;
  }

  void RequireKept(const PackedManifestFile& file) const {
    ProgressSink silent;
    const FileDigest found = DigestFiles(
        {{file.name, model_.directory / file.name, true, false, {}}}, 1, silent, stop_)[0];
    if (found.error) throw Error(*found.error);
    if (file.sha256.empty() || found.sha256 == file.sha256) return;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: its digest is not the one in {}; get the file again",
                            formats::ShownPath(file.name), kPackedManifestName),
                {file.name, ""});
  }

  void TakeSome() {
    if (model_.needs_index || plan_.files.size() > 1) plan_.index = PlanIndex(plan_);
  }

  const OpenedModel& model_;
  PackedTexts packed_;
  const std::vector<std::string>& globs_;
  const StopToken& stop_;
  std::unordered_map<std::string_view, const PackedManifestFile*> files_;
  Plan plan_;
};

// Throws for a glob that no tensor matches.
void RequireMatches(const std::vector<std::string>& tensors,
                    const std::vector<std::string>& globs) {
  for (const std::string& glob : globs) {
    if (std::any_of(tensors.begin(), tensors.end(),
                    [&](const std::string& tensor) { return MatchesGlob(glob, tensor); })) {
      continue;
    }
    throw Error(ErrorCode::kUsage,
                fmt::format("--tensors {}: no tensor has a name like this; globs are held against "
                            "whole names such as 'model.layers.0.mlp.up_proj.weight'",
                            QuoteForMessage(glob)));
  }
}

// What unpack reads.
struct Opened {
  OpenedModel model;
  std::optional<PackedTexts> packed;  // nothing for weight deltas
  std::vector<std::string> tensors;   // the names of all
};

Opened Open(const std::filesystem::path& input, const std::filesystem::path& base,
            const IsWanted& is_wanted) {
  Opened opened;
  if (IsPullDirectory(input)) {
    opened.model = OpenModel(input, {.mtp_may_be_missing = true, .base = base});
    for (std::uint32_t i = 0; i < opened.model.catalog.tensors_end(); ++i) {
      opened.tensors.emplace_back(opened.model.catalog.NameInFile(i));
    }
    return opened;
  }
  PackedOptions options;
  options.wanted = is_wanted;
  std::optional<BaseTensors> tensors;
  if (!base.empty()) options.base = &tensors.emplace(base);
  OpenedPacked packed = OpenPacked(input, options);
  for (const PackedManifestTensor& tensor : packed.manifest.tensors) {
    opened.tensors.push_back(tensor.name);
  }
  opened.model = std::move(packed.model);
  opened.packed = PackedTexts{std::move(packed.manifest), std::move(packed.texts)};
  return opened;
}

}  // namespace

ConversionKind UnpackConversion(const UnpackOptions& options) {
  // Between opening and the recipe of one run; nothing for weight deltas.
  const auto packed = std::make_shared<std::optional<PackedTexts>>();
  ConversionKind conversion;
  conversion.recipe = kUnpack;
  conversion.title = "Unpacked";
  conversion.converted_text = "unpacked";
  conversion.keeps_source = "unpack leaves the packed checkpoint; delete it afterwards";
  conversion.open = [options, packed](const JobRequest& request, const OpenOptions& opening) {
    Opened opened = Open(request.input, opening.base, WantedBy(options.tensors));
    *packed = std::move(opened.packed);
    RequireMatches(opened.tensors, options.tensors);
    return std::move(opened.model);
  };
  conversion.make_recipe = [options, packed](OpenedModel& model, const RecipeContext& context) {
    const std::vector<std::string>& globs = options.tensors;
    Plan plan =
        *packed ? Planner(model, *std::exchange(*packed, std::nullopt), globs, context.stop).Make()
                : PlanUnpackDeltas(model, WantedBy(globs));
    if (!globs.empty()) plan.options.push_back(TextsOption("tensors", globs));
    Recipe recipe{.plan = std::make_shared<const Plan>(std::move(plan)),
                  .tensors = StoredTensorsOf(model)};
    recipe.converted_tensors = model.catalog.tensors().size();
    recipe.copied_tensors = 0;
    recipe.hooks.preflight = [&model, context](const PreflightRun&) {
      // Those of XXH3-128 are compared while the files are made.
      if (model.assembled->checksums.kind != ValueChecksums::Kind::kXxh3) {
        CheckValues(TensorsOf(model).derived, std::nullopt, context.request.run.threads,
                    context.progress, context.stop);
      }
      return SideDigests();
    };
    return recipe;
  };
  return conversion;
}

}  // namespace dsv3::convert
