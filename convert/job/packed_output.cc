#include "convert/job/packed_output.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/describe_job.h"
#include "convert/open/base_tensors.h"
#include "convert/packing/packed_file.h"
#include "convert/packing/packed_manifest.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

formats::ManifestJob JobOf(std::vector<formats::ManifestSourceFile> files, bool has_base) {
  formats::ManifestJob job;
  job.recipe = kPackRecipe;
  if (has_base) job.options.emplace_back(kBaseOption, "true");
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  job.source_files = std::move(files);
  return job;
}

ManifestSummary SummaryOf(const PackedManifest& packed) {
  ManifestSummary summary;
  // A file without tensors is never deleted: no packed one needs its bytes.
  std::set<std::string_view> with_tensors;
  for (const PackedManifestTensor& tensor : packed.tensors) with_tensors.insert(tensor.file);
  std::vector<formats::ManifestSourceFile> originals;
  for (const PackedManifestFile& file : packed.files) {
    originals.push_back({"", file.name, file.bytes, ""});
    if (!file.packed) {
      summary.files.push_back({file.name, file.bytes, file.sha256, ""});
    } else {
      summary.files.push_back({file.PackedName(), file.packed_bytes, file.packed_sha256, ""});
      if (with_tensors.contains(file.name)) summary.source_files.push_back(file.name);
    }
  }
  summary.job = JobOf(std::move(originals), packed.NeedsBase());
  summary.job_text = formats::ManifestJobText(summary.job);
  for (const PackedManifestTensor& tensor : packed.tensors) {
    formats::ManifestTensor& read = summary.tensors.emplace_back();
    read.name = tensor.name;
    read.file = tensor.file;
    // A catalog has one of the two names, the other where files share names of tensors.
    for (std::string name : {tensor.name, fmt::format("{}/{}", tensor.file, tensor.name)}) {
      read.sources.push_back({"", std::move(name), tensor.dtype, tensor.shape, tensor.xxh3, ""});
    }
    if (tensor.base_xxh3.empty()) continue;
    read.sources.push_back(
        {std::string(kBaseOption), tensor.name, tensor.dtype, tensor.shape, tensor.base_xxh3, ""});
  }
  return summary;
}

}  // namespace

bool IsPackedName(std::string_view name) {
  if (!name.ends_with(kPackedSuffix)) return false;
  name.remove_suffix(kPackedSuffix.size());
  return name.ends_with(Safetensors().suffix());
}

formats::ManifestJob PackedJobOf(const Plan& plan, const Catalog& catalog) {
  std::vector<formats::ManifestSourceFile> files;
  for (std::uint32_t i = 0; i < catalog.files_end(); ++i) {
    files.push_back({"", catalog.files()[i].name, catalog.files()[i].bytes, ""});
  }
  for (const PlannedSideFile& side : plan.side_files) {
    files.push_back({"", side.name, SideFileBytes(side), ""});
  }
  if (!plan.index.empty()) {
    files.push_back({"", std::string(formats::kShardIndexName), plan.index.size(), ""});
  }
  const bool has_base =
      std::any_of(plan.options.begin(), plan.options.end(),
                  [](const PlanOption& option) { return option.name == kBaseOption; });
  return JobOf(std::move(files), has_base);
}

std::optional<ManifestSummary> ReadPackedOutput(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kPackedManifestName;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  const std::string text = formats::ReadSmallFile(path, formats::kMaxManifestBytes);
  try {
    return SummaryOf(ParsePackedManifest(text, path.string()));
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace dsv3::convert
