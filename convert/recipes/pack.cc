#include "convert/recipes/pack.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/output_place.h"
#include "convert/job/packed_output.h"
#include "convert/job/run_plan.h"
#include "convert/job/runner.h"
#include "convert/open/base_tensors.h"
#include "convert/open/files_to_pack.h"
#include "convert/open/model_files.h"
#include "convert/packing/packed_file.h"
#include "convert/packing/packed_manifest.h"
#include "convert/plan/plan.h"
#include "convert/recipes/own_shards.h"
#include "convert/recipes/packed_sizes.h"
#include "convert/recipes/pull_weights.h"
#include "convert/recipes/side_files.h"
#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

// Bytes of a stream beside its chunks, and of its entry in the header, about.
constexpr double kStreamBytes = 160;

std::uint64_t EstimatedBytes(const PlannedFile& file, const PackedSizes& sizes) {
  auto bytes = static_cast<double>(file.data_offset);
  for (const PlannedTensor& tensor : file.tensors) {
    const auto size = sizes.find({tensor.entry.dtype, tensor.base != nullptr});
    const double each = size == sizes.end() ? 1 : size->second;
    bytes += kStreamBytes + each * static_cast<double>(tensor.entry.bytes);
  }
  return static_cast<std::uint64_t>(std::ceil(bytes));
}

// What each tensor is packed against, by its position; nullptr for none.
std::vector<ExpressionPtr> BasesOf(const Catalog& catalog, const BaseTensors* base) {
  std::vector<ExpressionPtr> bases(catalog.tensors_end());
  if (base == nullptr) return bases;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    bases[i] = base->Find(std::string(catalog.NameInFile(i)), tensor.dtype, tensor.shape);
  }
  if (std::any_of(bases.begin(), bases.end(), [](const auto& each) { return each != nullptr; })) {
    return bases;
  }
  throw Error(ErrorCode::kUsage,
              "--base: the base has none of the tensors of IN in its dtype and shape, so it is "
              "another model's; give another one, or leave the option out");
}

void RequireDifferentNames(const Plan& plan) {
  std::set<std::string_view> names = {kPackedManifestName};
  const auto add = [&](const std::string& name) {
    if (names.insert(name).second) return;
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: the packed checkpoint has another file of this name; give this one "
                    "another name",
                    formats::ShownPath(name)),
        {name, ""});
  };
  for (const PlannedFile& file : plan.files) add(file.name);
  for (const PlannedSideFile& side : plan.side_files) add(side.name);
}

std::string OriginalName(const PlannedFile& file) {
  return file.name.substr(0, file.name.size() - kPackedSuffix.size());
}

ReportFact RatioFact(const Plan& plan, const ConversionReport& report) {
  ReportFact fact{"", "packed", "", {}};
  std::uint64_t original = 0;
  for (const PlannedFile& file : plan.files) original += file.bytes;
  if (original == 0) return fact;
  fact.text = fmt::format(
      "{}{} of {}, {:.1f} %", report.outcome == ConversionReport::Outcome::kPlanned ? "about " : "",
      formats::ShownBytes(report.output_bytes), formats::ShownBytes(original),
      100 * static_cast<double>(report.output_bytes) / static_cast<double>(original));
  return fact;
}

// Each file of tensors packed under its name and ".packed"; index and side files as they are, and
// with `all_side_files` also what is left behind otherwise. `model` is one of OpenFilesToPack.
// `base`, which is in its catalog, gives what tensors are packed against; nullptr: none. Throws
// Error: kBadInput where two files of the packed checkpoint would have one name, kUsage for a base
// that has none of the tensors.
Plan PlanPack(const OpenedModel& model, const BaseTensors* base, bool all_side_files) {
  Plan plan;
  plan.recipe = kPackRecipe;
  plan.packed = true;
  const Catalog& catalog = model.catalog;
  ModelFiles files = ReadModelFiles(model);
  const std::vector<ExpressionPtr> bases = BasesOf(catalog, base);
  if (base != nullptr) plan.options.push_back(FlagOption(kBaseOption, true));
  const PackedSizes sizes = SamplePackedSizes(catalog, bases);
  plan.files = PlanOwnShards(
      model, std::move(files.headers), {},
      [&](std::uint32_t position, PlannedTensor& tensor) { tensor.base = bases[position]; });
  for (PlannedFile& file : plan.files) {
    file.name += kPackedSuffix;
    file.packed_bytes = EstimatedBytes(file, sizes);
  }
  plan.index = files.index.value_or("");
  for (const std::string& name : model.side_files) {
    plan.side_files.push_back({name, model.directory / name, {}});
  }
  plan.left_behind = model.left_behind;
  if (all_side_files) {
    for (const formats::LeftBehind& each : std::exchange(plan.left_behind, {})) {
      plan.side_files.push_back({each.name, model.directory / each.name, {}});
    }
  }
  std::sort(plan.side_files.begin(), plan.side_files.end(),
            [](const PlannedSideFile& a, const PlannedSideFile& b) { return a.name < b.name; });
  RequireDifferentNames(plan);
  return plan;
}

// The text of packed.json, from the records of the plan's files.
std::string PackedManifestText(const Plan& plan, const FileRecords& records) {
  PackedManifest manifest;
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    PackedManifestFile entry;
    entry.name = OriginalName(file);
    entry.bytes = file.bytes;
    entry.sha256 = record.original.sha256;
    entry.packed = true;
    entry.packed_bytes = record.bytes;
    entry.packed_sha256 = record.file.sha256;
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      const TensorEntry& tensor = file.tensors[i].entry;
      manifest.tensors.push_back({tensor.name, entry.name, tensor.dtype, tensor.shape,
                                  record.tensors[i].output.xxh3,
                                  record.bases.empty() ? "" : record.bases[i]});
    }
    manifest.files.push_back(std::move(entry));
  }
  const auto add_kept = [&](const std::string& name) {
    const FileRecord& record = records.at(name);
    manifest.files.push_back({name, record.bytes, record.file.sha256});
  };
  for (const PlannedSideFile& side : plan.side_files) add_kept(side.name);
  if (!plan.index.empty()) add_kept(std::string(formats::kShardIndexName));
  std::sort(manifest.files.begin(), manifest.files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return SerializePackedManifest(manifest);
}

void CheckPullOptions(const PackOptions& options) {
  if (options.form == PackForm::kPacked) {
    if (!options.weight_version && !options.idempotent) return;
    throw Error(
        ErrorCode::kUsage,
        "--weight-version and --idempotent are for weight deltas; give --form pull-weights");
  }
  if (options.base.empty() || !options.weight_version) {
    throw Error(ErrorCode::kUsage,
                "--form pull-weights: weight deltas are those of a version from the one before it; "
                "give --base DIR and --weight-version N");
  }
  if (*options.weight_version == 0) {
    throw Error(ErrorCode::kUsage,
                "--weight-version 0: version 0 is the model that engines began with; the first "
                "deltas are version 1");
  }
}

ReportFact VersionFact(std::uint64_t version) {
  return {"",
          "version",
          fmt::format("{}; engines look for it as {}", version, PullDirectoryName(version)),
          {}};
}

// What both forms have.
ConversionKind BeginConversion(const PackOptions& options) {
  ConversionKind conversion;
  conversion.recipe = kPackRecipe;
  conversion.check_options = [options](const JobRequest& request) {
    CheckPullOptions(options);
    if (!options.base.empty()) RequireApart(options.base, request.output);
  };
  conversion.open = [](const JobRequest& request, const OpenOptions& opening) {
    return OpenFilesToPack(request.input, opening);
  };
  return conversion;
}

ConversionKind PullWeightsConversion(const PackOptions& options) {
  ConversionKind conversion = BeginConversion(options);
  conversion.title = "Packed as weight deltas";
  conversion.converted_text = "compared with the base";
  conversion.keeps_source = "IN is the base of the next version; leave the option out";
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    BaseTensors base(options.base);
    base.AppendTo(model.catalog);
    const std::uint64_t version = *options.weight_version;
    auto plan = std::make_shared<const Plan>(PlanPullWeights(
        model, base, version, options.idempotent ? PullEncoding::kOverwrite : PullEncoding::kXor));
    Recipe recipe{.plan = plan, .tensors = TensorsOf(model)};
    recipe.converted_tensors = model.catalog.tensors_end();
    recipe.copied_tensors = 0;
    recipe.hooks.preflight = [](const PreflightRun&) { return SideDigests(); };
    recipe.hooks.closing_name = formats::kShardIndexName;
    recipe.hooks.closing_text = [plan, version](const FileRecords& records, const std::string&) {
      return PullIndexText(*plan, records, version);
    };
    recipe.hooks.last_text = [plan, &model, context](const FileRecords& records) {
      return PullManifestText(*plan, TensorsOf(model), context.request.run, records);
    };
    recipe.add_facts = [plan, version](ConversionReport& report) {
      report.facts.push_back(RatioFact(*plan, report));
      report.facts.push_back(VersionFact(version));
    };
    return recipe;
  };
  return conversion;
}

}  // namespace

ConversionKind PackConversion(const PackOptions& options) {
  if (options.form == PackForm::kPullWeights) return PullWeightsConversion(options);
  ConversionKind conversion = BeginConversion(options);
  conversion.title = "Packed";
  conversion.converted_text = "packed";
  conversion.make_recipe = [options](OpenedModel& model, const RecipeContext& context) {
    std::optional<BaseTensors> base;
    if (!options.base.empty()) {
      base.emplace(options.base);
      base->AppendTo(model.catalog);
    }
    auto plan = std::make_shared<const Plan>(
        PlanPack(model, base ? &*base : nullptr, context.request.run.all_side_files));
    Recipe recipe{.plan = plan, .tensors = TensorsOf(model)};
    recipe.converted_tensors = model.catalog.tensors_end();
    recipe.copied_tensors = 0;
    recipe.hooks.preflight = [](const PreflightRun&) { return SideDigests(); };
    recipe.hooks.last_text = [plan](const FileRecords& records) {
      return PackedManifestText(*plan, records);
    };
    recipe.add_facts = [plan](ConversionReport& report) {
      report.facts.push_back(RatioFact(*plan, report));
    };
    return recipe;
  };
  return conversion;
}

}  // namespace dsv3::convert
