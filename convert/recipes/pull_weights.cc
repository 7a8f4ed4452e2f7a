#include "convert/recipes/pull_weights.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/job/manifest.h"
#include "convert/job/packed_output.h"
#include "convert/open/model_files.h"
#include "convert/recipes/own_shards.h"
#include "convert/recipes/packed_sizes.h"
#include "convert/recipes/side_files.h"
#include "convert/recipes/unpack.h"
#include "formats/error.h"
#include "formats/manifest.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// XOR and level 1 take about so many times the bytes that differences in planes take.
constexpr double kOfPacked = 2;
// The rule of a tensor in the manifest.
constexpr std::string_view kRule = "delta";

[[noreturn]] void Refuse(const std::string& file, const std::string& tensor,
                         const std::string& problem) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: tensor {} {}; weight deltas change the values of the tensors that "
                          "engines have, and nothing else",
                          formats::ShownPath(file), QuoteForMessage(tensor), problem),
              {file, tensor});
}

std::string Form(const CatalogTensor& tensor) {
  return fmt::format("{} {}", formats::DtypeName(tensor.dtype),
                     formats::ShapeToString(tensor.shape));
}

// What each tensor is packed against, by its position.
std::vector<ExpressionPtr> RequireSameTensors(const Catalog& catalog, const BaseTensors& base,
                                              PullEncoding encoding) {
  const Catalog& old = base.catalog();
  std::set<std::string_view> names;
  std::vector<ExpressionPtr> bases;
  for (std::uint32_t i = 0; i < catalog.tensors_end(); ++i) {
    const CatalogTensor& tensor = catalog.tensors()[i];
    const std::string& file = catalog.files()[tensor.extent.file].name;
    const std::string name(catalog.NameInFile(i));
    const std::uint32_t before = old.Find(name);
    if (before == Catalog::kNone) Refuse(file, name, "was added: the base has none of this name");
    if (old.tensors()[before].dtype != tensor.dtype ||
        old.tensors()[before].shape != tensor.shape) {
      Refuse(
          file, name,
          fmt::format("is {}, and that of the base {}", Form(tensor), Form(old.tensors()[before])));
    }
    if (!names.insert(old.tensors()[before].name).second) {
      Refuse(file, name, "is in another file, too");
    }
    // All of them may change, and so many must fit the count, too.
    if (encoding == PullEncoding::kOverwrite && tensor.extent.length >= kMostOverwrittenBytes) {
      Refuse(file, name,
             fmt::format("has {} bytes or more, which are too many for positions of 32 bits: leave "
                         "out --idempotent",
                         kMostOverwrittenBytes));
    }
    bases.push_back(base.Find(name, tensor.dtype, tensor.shape));
  }
  for (std::uint32_t i = 0; i < old.tensors_end(); ++i) {
    const CatalogTensor& tensor = old.tensors()[i];
    if (names.contains(tensor.name)) continue;
    Refuse(old.files()[tensor.extent.file].name, tensor.name,
           "of the base was removed: IN has none of this name");
  }
  return bases;
}

}  // namespace

Plan PlanPullWeights(const OpenedModel& model, const BaseTensors& base, std::uint64_t version,
                     PullEncoding encoding) {
  Plan plan;
  plan.recipe = kPackRecipe;
  plan.packed = true;
  plan.pull = encoding;
  plan.options = {FlagOption(kBaseOption, true), TextOption("form", "pull-weights"),
                  FlagOption("idempotent", encoding == PullEncoding::kOverwrite),
                  NumberOption("weight_version", version)};
  const Catalog& catalog = model.catalog;
  const std::vector<ExpressionPtr> bases = RequireSameTensors(catalog, base, encoding);
  const PackedSizes sizes = SamplePackedSizes(catalog, bases);
  plan.files = PlanOwnShards(
      model, ReadModelFiles(model).headers, {},
      [&](std::uint32_t position, PlannedTensor& tensor) { tensor.base = bases[position]; });
  for (std::size_t i = 0; i < plan.files.size(); ++i) {
    PlannedFile& file = plan.files[i];
    file.name = fmt::format("model-{:05}-of-{:05}.safetensors", i, plan.files.size());
    auto estimate = static_cast<double>(file.data_offset);
    for (const PlannedTensor& tensor : file.tensors) {
      const auto size = sizes.find({tensor.entry.dtype, true});
      const double each = size == sizes.end() ? 1 : std::min(1.0, kOfPacked * size->second);
      estimate += each * static_cast<double>(tensor.entry.bytes);
    }
    file.packed_bytes = static_cast<std::uint64_t>(std::ceil(estimate));
  }
  return plan;
}

std::string PullIndexText(const Plan& plan, const FileRecords& records, std::uint64_t version) {
  PullIndex index;
  index.version = version;
  index.base_version = version - 1;
  index.encoding = *plan.pull;
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      if (record.tensors[i].output.xxh3 == record.bases[i]) continue;
      index.weight_map.emplace(file.tensors[i].entry.name, file.name);
    }
  }
  return SerializePullIndex(index);
}

std::string PullManifestText(const Plan& plan, const ModelTensors& source, const RunOptions& run,
                             const FileRecords& records) {
  formats::ManifestWriter writer(formats::ManifestJobText(ManifestJobOf(plan, source, run)));
  std::set<std::string> names;
  for (const auto& [name, record] : records) names.insert(name);
  for (const std::string& name : names) {
    const FileRecord& record = records.at(name);
    writer.AddFile({name, record.bytes, record.file.sha256, ""});
  }
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      const TensorEntry& entry = file.tensors[i].entry;
      const std::string& digest = record.tensors[i].output.xxh3;
      formats::ManifestTensor tensor;
      tensor.name = entry.name;
      tensor.file = file.name;
      tensor.dtype = entry.dtype;
      tensor.shape = entry.shape;
      tensor.xxh3 = digest;
      tensor.rule = kRule;
      tensor.sources = {
          {"", entry.name, entry.dtype, entry.shape, digest, ""},
          {std::string(kBaseOption), entry.name, entry.dtype, entry.shape, record.bases[i], ""}};
      writer.AddTensor(tensor);
    }
  }
  return writer.Finish();
}

Plan PlanUnpackDeltas(const OpenedModel& model, const IsWanted& is_wanted) {
  Plan plan;
  plan.recipe = kUnpack;
  const ValueChecksums& checksums = model.assembled->checksums;
  ModelFiles files = ReadModelFiles(model);
  plan.files = PlanOwnShards(model, std::move(files.headers), is_wanted,
                             [&](std::uint32_t position, PlannedTensor& tensor) {
                               if (checksums.kind != ValueChecksums::Kind::kXxh3) return;
                               const auto digest = checksums.of.find(position);
                               if (digest != checksums.of.end()) tensor.xxh3 = digest->second;
                             });
  PlanSideFiles(model, model.config_text, {}, plan);
  if (!is_wanted) {
    plan.index = files.index.value_or("");
  } else if (model.needs_index || plan.files.size() > 1) {
    plan.index = PlanIndex(plan);
  }
  return plan;
}

}  // namespace dsv3::convert
