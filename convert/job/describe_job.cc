#include "convert/job/describe_job.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <system_error>

#include "convert/job/manifest.h"
#include "convert/job/packed_output.h"
#include "convert/job/process_messages.h"
#include "convert/job/work_division.h"
#include "convert/open/assembled_model.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

std::int64_t MtimeNs(const fs::path& path) {
  std::error_code error;
  const fs::file_time_type time = fs::last_write_time(path, error);
  if (error) return 0;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

void CheckShared(const RecipeHooks& hooks, const RunOptions& run) {
  const bool processes = IsShared(run.sharing);
  if (!run.part && !run.finish && !hooks.selected && !processes) return;
  const std::string name = hooks.selected ? "--ranks"
                           : run.part     ? "--part"
                           : run.finish   ? "--finish"
                                          : "mpirun";
  if (processes && run.part) {
    throw Error(ErrorCode::kUsage,
                "--part does not go with mpirun: its processes share the whole job already; leave "
                "--part out, or start each part by itself");
  }
  if (hooks.selected && (run.part || run.finish)) {
    throw Error(ErrorCode::kUsage,
                "--ranks does not go with --part or --finish: each says which files to make; give "
                "--ranks alone, the run that makes the last rank completes the output");
  }
  if (run.delete_source_shards) {
    throw Error(ErrorCode::kUsage,
                name +
                    " does not go with --delete-source-shards: other runs may still need what "
                    "one run has read; delete the source when the output is complete");
  }
  if (run.overwrite && (run.part || run.finish)) {
    throw Error(ErrorCode::kUsage,
                name +
                    " does not go with --overwrite: runs at the same time cannot agree on which "
                    "files are replaced; empty the output directory first, or choose another");
  }
}

}  // namespace

RunAssignment AssignmentOf(const Plan& plan, const RecipeHooks& hooks, const RunOptions& run) {
  CheckShared(hooks, run);
  RunAssignment assignment;
  if (run.part) {
    if (run.part->index >= run.part->count) {
      throw Error(ErrorCode::kUsage, "--part: there is no such part; give I/N with I below N");
    }
    assignment.run = {RunId::Kind::kPart, run.part->index, run.part->count};
    assignment.files = FilesOfPart(plan, BundlesOf(plan, hooks.bundles), *run.part);
    assignment.side_files = run.part->index == 0;
    assignment.may_end = false;
  } else if (hooks.selected) {
    assignment.files = *hooks.selected;
    std::sort(assignment.files.begin(), assignment.files.end());
  } else if (run.finish) {
    assignment.must_end = true;
  } else {
    assignment.files.resize(plan.files.size());
    std::iota(assignment.files.begin(), assignment.files.end(), std::size_t{0});
  }
  return assignment;
}

std::uint64_t SideFileBytes(const PlannedSideFile& side) {
  if (side.source.empty()) return side.content.size();
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(side.source, error);
  return error ? 0 : bytes;
}

namespace {

// Which of the sources these tensors are of, as SourceFile::checkpoint.
std::string CheckpointOf(const Catalog& catalog, const DerivedTensors& derived) {
  if (derived.origins.empty()) return "";
  return catalog.files()[catalog.tensors()[derived.first].extent.file].checkpoint;
}

}  // namespace

OutputJob DescribeJob(const ModelTensors& source, const Plan& plan, const RecipeHooks& hooks,
                      const RunOptions& run, const RunAssignment& assignment) {
  OutputJob job;
  job.plan = &plan;
  job.manifest_job = plan.packed && !plan.pull ? PackedJobOf(plan, source.catalog)
                                               : ManifestJobOf(plan, source, run);
  job.manifest_job_text = formats::ManifestJobText(job.manifest_job);
  job.overwrite = run.overwrite;
  job.output = run.output;
  job.run = assignment.run;
  JournalHead& head = job.head;
  head.recipe = plan.recipe;
  head.input = run.input;
  head.command = run.command;
  head.options = job.manifest_job.options;
  const std::string identity = PlanFingerprint(plan, source.catalog) + job.manifest_job_text;
  head.fingerprint = formats::Xxh3Hex(identity);
  for (const SourceFile& file : source.catalog.files()) {
    if (IsMadeUp(file)) continue;
    head.sources.push_back(
        {file.name, file.bytes, file.mtime_ns, file.header_digest, file.checkpoint});
    job.source_paths.push_back(file.path);
  }
  for (const DerivedTensors& derived : source.derived) {
    const std::string checkpoint = CheckpointOf(source.catalog, derived);
    for (const SourceFile& file : derived.stored->files()) {
      head.sources.push_back({file.name, file.bytes, file.mtime_ns, file.header_digest,
                              file.checkpoint.empty() ? checkpoint : file.checkpoint});
      job.source_paths.push_back(file.path);
    }
  }
  const auto add_side = [&](const PlannedSideFile& side) {
    if (side.source.empty()) return;
    head.sources.push_back({side.name, SideFileBytes(side), MtimeNs(side.source), ""});
    job.source_paths.push_back(side.source);
  };
  for (const PlannedSideFile& side : plan.side_files) add_side(side);
  add_side({std::string(kManifestName), plan.manifest, {}});
  for (const PlannedFile& file : plan.files) head.outputs.push_back(file.name);
  for (const PlannedSideFile& side : plan.side_files) head.outputs.push_back(side.name);
  if (!plan.index.empty()) head.outputs.emplace_back(formats::kShardIndexName);
  if (!hooks.closing_name.empty()) head.outputs.push_back(hooks.closing_name);
  head.outputs.emplace_back(LastFileOf(plan));

  job.writes = head.outputs;
  if (assignment.run.kind == RunId::Kind::kPart) {
    job.writes.clear();
    for (const std::size_t file : assignment.files) job.writes.push_back(plan.files[file].name);
    if (assignment.side_files) {
      for (const PlannedSideFile& side : plan.side_files) job.writes.push_back(side.name);
    }
  }
  return job;
}

}  // namespace dsv3::convert
