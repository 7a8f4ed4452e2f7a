#include "convert/job/plan_report.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/job/describe_job.h"
#include "convert/job/disk_space.h"
#include "convert/job/source_use.h"
#include "convert/stream/shared_reads.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Bytes that --delete-source-shards would free with each source file; empty where it is refused.
std::vector<std::uint64_t> FreedBytes(const ModelTensors& source, const SourceUse& use) {
  std::vector<std::uint64_t> bytes(use.files().size(), 0);
  try {
    const DeletionRules rules(source.directory);
    for (std::uint32_t i = 0; i < use.files_end(); ++i) {
      const std::filesystem::path& path = use.files()[i].path;
      if (formats::Exists(path)) bytes[i] = rules.Of(path).freed_bytes;
    }
  } catch (const Error&) {
    return {};
  }
  return bytes;
}

// Bytes for each tensor in the manifest, in the journal and in files such as layout.json.
constexpr std::uint64_t kRecordBytes = 1024;

}  // namespace

RunResources ResourcesOf(const ExecutorOptions& options, const Plan& plan,
                         std::span<const std::size_t> files) {
  if (plan.shared_reads) return {0, PlanSharedReads(options, plan, files).memory_bytes};
  const ExecutorResources resources = PlanResources(options, plan, files);
  return {resources.open_files, resources.memory_bytes};
}

std::size_t ReportDisk(const ModelTensors& source, const Plan& plan,
                       const std::filesystem::path& output, const RunOptions& run,
                       const ExecutorOptions& options, const std::vector<std::size_t>& to_make,
                       ConversionReport& report) {
  std::uint64_t other_bytes = plan.index.size();
  for (const PlannedSideFile& side : plan.side_files) other_bytes += SideFileBytes(side);
  other_bytes += kRecordBytes * report.tensors;
  report.disk_free_bytes = formats::FreeDiskBytes(output);
  const std::size_t open_files = ResourcesOf(options, plan, to_make).open_files;
  const SourceUse use(source);
  const bool may_free = run.source_may_go && !run.part && !run.finish && !plan.shared_reads;
  const bool can_free = may_free && SameFileSystem(output, source.directory);
  // Files that become further names of source files take no space, and free none.
  std::vector<std::size_t> written;
  for (const std::size_t file : to_make) {
    const std::filesystem::path& same = plan.files[file].same_bytes_as;
    if (!run.link || same.empty() || !SameFileSystem(same, output)) written.push_back(file);
  }
  const auto estimate = [&](bool frees) {
    return EstimateDisk(plan, use, written, other_bytes,
                        frees ? FreedBytes(source, use) : std::vector<std::uint64_t>(), open_files,
                        report.disk_free_bytes);
  };
  const DiskNeed need = estimate(can_free && run.delete_source_shards);
  report.disk_needed_bytes = need.peak_bytes;
  report.fits = need.peak_bytes <= report.disk_free_bytes;
  report.fits_with_deletion =
      report.fits || (can_free && estimate(true).peak_bytes <= report.disk_free_bytes);
  return open_files == 0 ? 0 : need.open_files;
}

void RequireDisk(const std::filesystem::path& output, const ConversionReport& report) {
  if (report.fits) return;
  throw Error(ErrorCode::kIo,
              fmt::format("{}: {} are needed on this disk and {} are free; free {}, or "
                          "name another disk{}",
                          formats::ShownPath(output), formats::ExactBytes(report.disk_needed_bytes),
                          formats::ExactBytes(report.disk_free_bytes),
                          formats::ExactBytes(report.disk_needed_bytes - report.disk_free_bytes),
                          report.fits_with_deletion ? " (--delete-source-shards would do)" : ""),
              {output.string(), ""});
}

std::vector<SourceDeletion> PlanDeletionOf(const ModelTensors& source) {
  const SourceUse use(source);
  std::vector<std::filesystem::path> shards;
  for (std::uint32_t i = 0; i < use.files_end(); ++i) {
    shards.push_back(use.files()[i].path);
  }
  return PlanDeletion(source.directory, shards);
}

void ReportDeletions(const std::vector<SourceDeletion>& deletions, ConversionReport& report) {
  report.deletions = deletions;
  // Several threads free shards.
  std::sort(report.deletions.begin(), report.deletions.end(),
            [](const SourceDeletion& a, const SourceDeletion& b) { return a.shard < b.shard; });
  for (const SourceDeletion& deletion : deletions) {
    if (deletion.shard_goes()) ++report.freed_source_shards;
    report.freed_source_bytes += deletion.freed_bytes;
  }
}

std::uint64_t EstimateMemory(const ModelTensors& source, const RunResources& resources) {
  return (std::uint64_t{32} << 20) + std::uint64_t{900} * source.catalog.tensors().size() +
         resources.memory_bytes;
}

void ReportFiles(const Plan& plan, std::span<const std::size_t> files,
                 const std::map<std::string, FileRecord>& finished,
                 const std::unordered_map<std::string, FileRecord>& records,
                 ConversionReport& report) {
  // Several rank files may have a tensor, or parts of it.
  std::set<std::string_view> zero_names;
  std::set<std::string_view> hole_names;
  for (const std::size_t position : files) {
    const PlannedFile& file = plan.files[position];
    OutputFileReport entry;
    entry.name = file.name;
    entry.bytes = file.disk_bytes();
    entry.tensors = file.tensors.size();
    const auto kept = finished.find(file.name);
    entry.kept = kept != finished.end();
    if (entry.kept) ++report.kept_files;
    if (entry.kept && plan.packed) entry.bytes = kept->second.bytes;
    const auto record = records.find(file.name);
    if (record != records.end()) {
      entry.bytes = record->second.bytes;
      entry.sha256 = record->second.file.sha256;
      for (std::size_t i = 0; i < file.tensors.size(); ++i) {
        const TensorRecord& tensor = record->second.tensors[i];
        const std::string& name = file.tensors[i].entry.name;
        if (tensor.nan_codes != 0) report.nan_codes.push_back({name, tensor.nan_codes});
        if (tensor.all_zero && zero_names.insert(name).second) report.all_zero.push_back(name);
        if (tensor.zero_runs != 0 && hole_names.insert(name).second) {
          report.zero_runs.push_back({name, tensor.zero_runs});
        }
        if (tensor.zero_blocks != 0) report.zero_blocks.push_back({name, tensor.zero_blocks});
        if (tensor.quality) report.quality.push_back({name, *tensor.quality});
      }
    }
    report.files.push_back(std::move(entry));
  }
  if (!plan.packed || files.size() != plan.files.size()) return;
  report.output_bytes = 0;
  for (const OutputFileReport& file : report.files) report.output_bytes += file.bytes;
}

ReportFact LinkedFiles(const Plan& plan, const std::filesystem::path& output) {
  ReportFact fact{"linked", "linked", "", {}};
  for (const PlannedFile& file : plan.files) {
    std::error_code error;
    if (!file.same_bytes_as.empty() &&
        std::filesystem::equivalent(output / file.name, file.same_bytes_as, error)) {
      fact.names.push_back(file.name);
    }
  }
  fact.text = fmt::format("{} of {} shards are further names of IN's files{}", fact.names.size(),
                          plan.files.size(), fact.names.empty() ? "" : "; do not change them");
  return fact;
}

}  // namespace dsv3::convert
