#include "convert/job/manifest.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "convert/job/source_use.h"
#include "convert/open/assembled_model.h"
#include "convert/packing/packed_manifest.h"
#include "convert/plan/dropped_tensors.h"
#include "convert/plan/slice_expression.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_writer.h"

namespace dsv3::convert {
namespace {

formats::ManifestSource SourceOf(const Catalog& catalog, std::uint32_t position,
                                 const Digests& digests) {
  const CatalogTensor& tensor = catalog.tensors()[position];
  const SourceFile& file = catalog.files()[tensor.extent.file];
  return {file.checkpoint,
          std::string(catalog.NameInFile(position)),
          tensor.dtype,
          tensor.shape,
          digests.xxh3,
          digests.sha256,
          file.shares_names ? file.name : ""};
}

// How a tensor of shards that are made up is made; nullptr for one that lies in a file.
const DerivedTensors* FindMadeUp(const ModelTensors& source, std::uint32_t position) {
  const auto found =
      std::find_if(source.derived.begin(), source.derived.end(),
                   [&](const DerivedTensors& derived) { return derived.Holds(position); });
  if (found == source.derived.end()) return nullptr;
  return IsMadeUp(source.catalog.files()[source.catalog.tensors()[position].extent.file]) ? &*found
                                                                                          : nullptr;
}

bool IsListed(const formats::ManifestSource& source, const formats::ManifestTensor& tensor) {
  return std::any_of(tensor.sources.begin(), tensor.sources.end(),
                     [&](const formats::ManifestSource& other) {
                       return other.name == source.name && other.file == source.file &&
                              other.checkpoint == source.checkpoint;
                     });
}

// Adds what a tensor was made of: a source tensor, or where that lies in no file the stored tensors
// that it is made of. Of these digests are known where they are the same bytes, and where somebody
// recorded them. A step that changes values gives the tensor its rule.
void AddSource(const ModelTensors& source, std::uint32_t position, const Digests& digests,
               formats::ManifestTensor& tensor) {
  const DerivedTensors* const derived = FindMadeUp(source, position);
  if (derived == nullptr) {
    tensor.sources.push_back(SourceOf(source.catalog, position, digests));
    return;
  }
  const Expression& origin = derived->OriginOf(position);
  const bool is_same = origin.rule() == "copy";
  const bool changes_values = origin.rule() == "cast" || origin.rule() == "dequantize";
  if (changes_values || tensor.rule == "copy") tensor.rule = origin.rule();
  const auto add = [&](std::uint32_t stored) {
    Digests of_stored = is_same ? digests : Digests();
    if (!is_same && derived->digests != nullptr) {
      const auto known = derived->digests->find(stored);
      if (known != derived->digests->end()) of_stored.xxh3 = known->second;
    }
    formats::ManifestSource listed = SourceOf(*derived->stored, stored, of_stored);
    const Extent& shard = source.catalog.tensors()[position].extent;
    listed.checkpoint = source.catalog.files()[shard.file].checkpoint;
    if (!IsListed(listed, tensor)) tensor.sources.push_back(std::move(listed));
  };
  for (const std::uint32_t stored : origin.streamed_sources()) add(stored);
  for (const std::uint32_t stored : origin.side_sources()) add(stored);
}

using DigestsByTensor = std::unordered_map<std::uint32_t, Digests>;

// The digests of streamed tensors, for expressions that read nothing: their constant was found in a
// tensor that another one streams.
DigestsByTensor StreamedByAll(const Plan& plan,
                              const std::unordered_map<std::string, FileRecord>& records) {
  DigestsByTensor streamed;
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      if (record.tensors[i].streamed.xxh3.empty()) continue;
      const std::vector<std::uint32_t> sources = file.tensors[i].expression->streamed_sources();
      streamed.emplace(sources.at(0), record.tensors[i].streamed);
    }
  }
  return streamed;
}

// The known digests of sources.
struct KnownDigests {
  const Plan& plan;
  const DigestsByTensor& sides;
  const DigestsByTensor streamed_by_all;

  // The digests of a tensor that the plan gives (Plan::source_digests); empty otherwise.
  Digests OfPlan(std::uint32_t tensor) const {
    const auto found = plan.source_digests.find(tensor);
    return found == plan.source_digests.end() ? Digests() : Digests{found->second, ""};
  }

  Digests OfStreamed(const Expression& expression, const TensorRecord& record,
                     std::uint32_t tensor) const {
    if (expression.streams_whole_source()) {
      return record.streamed.xxh3.empty() ? streamed_by_all.at(tensor) : record.streamed;
    }
    // Of a source that is cut into slices, the manifest may record nothing that depends on which
    // slices were made.
    const SliceExpression* const slice = expression.slice();
    return slice != nullptr && slice->IsWholeCopy() ? record.output : OfPlan(tensor);
  }

  Digests OfSide(const Expression& expression, std::uint32_t tensor) const {
    if (expression.streams_whole_source()) return sides.at(tensor);
    const auto side = sides.find(tensor);
    return side == sides.end() ? OfPlan(tensor) : side->second;
  }
};

formats::ManifestTensor TensorOf(const PlannedFile& file, const PlannedTensor& planned,
                                 const TensorRecord& record, const ModelTensors& model,
                                 const KnownDigests& known) {
  formats::ManifestTensor tensor;
  tensor.name = planned.entry.name;
  tensor.file = file.name;
  tensor.dtype = planned.entry.dtype;
  tensor.shape = planned.entry.shape;
  tensor.xxh3 = record.output.xxh3;
  tensor.sha256 = record.output.sha256;
  tensor.nan_codes = record.nan_codes;
  tensor.rule = planned.expression->rule();
  const Expression& expression = *planned.expression;
  for (const std::uint32_t source : expression.streamed_sources()) {
    AddSource(model, source, known.OfStreamed(expression, record, source), tensor);
  }
  for (const std::uint32_t side : expression.side_sources()) {
    AddSource(model, side, known.OfSide(expression, side), tensor);
  }
  return tensor;
}

// About as much as the text of most plans takes: a tensor with one source of its name.
void ReserveFor(const Plan& plan, const std::unordered_map<std::string, FileRecord>& records,
                formats::ManifestWriter& writer) {
  constexpr std::size_t kMemberBytes = 240;  // names of members, dtypes, shapes, two digests
  constexpr std::size_t kSha256Bytes = 152;
  std::size_t tensors = 0;
  std::size_t bytes = std::size_t{1} << 20;
  for (const PlannedFile& file : plan.files) {
    tensors += file.tensors.size();
    for (const PlannedTensor& tensor : file.tensors) {
      bytes += kMemberBytes + 2 * tensor.entry.name.size() + file.name.size();
    }
    const std::vector<TensorRecord>& tensor_records = records.at(file.name).tensors;
    if (!tensor_records.empty() && !tensor_records[0].output.sha256.empty()) {
      bytes += file.tensors.size() * kSha256Bytes;
    }
  }
  writer.Reserve(tensors, bytes);
}

}  // namespace

std::string_view LastFileOf(const Plan& plan) {
  return plan.packed && !plan.pull ? kPackedManifestName : kManifestName;
}

namespace {

// The files that lie there: in place of shards that are made up those that hold their tensors, of
// the converted checkpoint the ones that the plan needs.
void AddSourceFiles(const Plan& plan, const ModelTensors& source, formats::ManifestJob& job) {
  const std::vector<SourceFile>& shards = source.catalog.files();
  const auto add = [&](const SourceFile& file, const std::string& checkpoint) {
    job.source_files.push_back({checkpoint, file.name, file.bytes, file.header_digest});
  };
  for (const SourceFile& shard : shards) {
    if (!IsMadeUp(shard)) add(shard, shard.checkpoint);
  }
  for (const DerivedTensors& derived : source.derived) {
    if (derived.origins.empty()) continue;
    const SourceFile& shard = shards[source.catalog.tensors()[derived.first].extent.file];
    if (!IsMadeUp(shard)) continue;
    const bool is_converted = derived.first == 0;
    const std::vector<std::uint32_t> needs =
        is_converted ? SourceUse(source).CountNeeds(plan) : std::vector<std::uint32_t>();
    const std::vector<SourceFile>& files = derived.stored->files();
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (!is_converted || needs[i] > 0) add(files[i], shard.checkpoint);
    }
  }
}

}  // namespace

formats::ManifestJob ManifestJobOf(const Plan& plan, const ModelTensors& source,
                                   const RunOptions& run) {
  formats::ManifestJob job;
  job.recipe = plan.recipe;
  for (const PlanOption& option : plan.options) job.options.emplace_back(option.name, option.json);
  job.options.emplace_back("checksum",
                           run.checksum == ChecksumMode::kSha256 ? "\"sha256\"" : "\"none\"");
  job.options.emplace_back("tensor_sha256", run.tensor_sha256 ? "true" : "false");
  job.removed_config = plan.removed_config;
  const PatternCounts dropped = DroppedTensors(plan, source.catalog);
  job.dropped.assign(dropped.begin(), dropped.end());
  AddSourceFiles(plan, source, job);
  return job;
}

std::string ManifestText(const std::string& job, const Plan& plan, const ModelTensors& source,
                         const std::unordered_map<std::string, FileRecord>& records,
                         const std::unordered_map<std::uint32_t, Digests>& side_digests) {
  std::map<std::string_view, formats::ManifestFile> by_name;
  for (const auto& [name, record] : records) {
    by_name[name] = {name, record.bytes, record.file.sha256, ""};
  }
  for (const PlannedFile& file : plan.files) by_name.at(file.name).header_xxh3 = file.header_digest;
  const KnownDigests known = {plan, side_digests, StreamedByAll(plan, records)};
  formats::ManifestWriter writer(job);
  ReserveFor(plan, records, writer);
  for (const auto& [name, file] : by_name) writer.AddFile(file);
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      writer.AddTensor(TensorOf(file, file.tensors[i], record.tensors[i], source, known));
    }
  }
  return writer.Finish();
}

std::optional<ManifestSummary> ReadManifest(const std::filesystem::path& directory) {
  return ReadManifestAt(directory / kManifestName);
}

std::optional<ManifestSummary> ReadManifestAt(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  const std::string text = formats::ReadSmallFile(path, formats::kMaxManifestBytes);
  try {
    formats::Manifest manifest = formats::ParseManifest(text, path.string());
    if (manifest.job.recipe == formats::kNoRecipe) return std::nullopt;
    ManifestSummary summary;
    summary.job_text = formats::ManifestJobText(manifest.job);
    summary.job = std::move(manifest.job);
    for (const formats::ManifestSourceFile& file : summary.job.source_files) {
      if (file.checkpoint.empty()) summary.source_files.push_back(file.name);
    }
    // These names decide which files --overwrite removes: files of others beside the output stay.
    for (formats::ManifestFile& file : manifest.files) {
      if (file.by_recipe) summary.files.push_back(std::move(file));
    }
    summary.tensors = std::move(manifest.tensors);
    return summary;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace dsv3::convert
