#include <string>

#include "cli/conversion_report.h"
#include "cli/json_members.h"
#include "cli/quality_report.h"
#include "cli/version.h"

namespace dsv3::cli {

namespace {

using convert::ConversionReport;
using convert::JobRequest;
using convert::TensorCount;
using formats::JsonWriter;

const char* OutcomeName(ConversionReport::Outcome outcome) {
  switch (outcome) {
    case ConversionReport::Outcome::kNothingToDo:
      return "nothing-to-do";
    case ConversionReport::Outcome::kPlanned:
      return "planned";
    case ConversionReport::Outcome::kPartDone:
      return "part-done";
    case ConversionReport::Outcome::kConverted:
      break;
  }
  return "converted";
}

void Files(JsonWriter& json, const ConversionReport& report) {
  json.BeginArray("files");
  for (const convert::OutputFileReport& file : report.files) {
    json.BeginObject();
    StringMember(json, "name", file.name);
    json.Uint("bytes", file.bytes);
    json.Uint("tensors", file.tensors);
    StringOrNullMember(json, "sha256", file.sha256);
    json.Bool("kept", file.kept);
    json.EndObject();
  }
  json.EndArray();
}

void LeftBehindMember(JsonWriter& json, const ConversionReport& report) {
  json.BeginArray("left_behind");
  for (const formats::LeftBehind& each : report.left_behind) {
    json.BeginObject();
    StringMember(json, "name", each.name);
    StringMember(json, "kind", formats::LeftBehindKindName(each.kind));
    json.Uint("bytes", each.bytes);
    json.EndObject();
  }
  json.EndArray();
}

void Counts(JsonWriter& json, std::string_view key, const std::vector<TensorCount>& counts) {
  json.BeginArray(key);
  for (const TensorCount& each : counts) {
    json.BeginObject();
    StringMember(json, "tensor", each.tensor);
    json.Uint("count", each.count);
    json.EndObject();
  }
  json.EndArray();
}

const char* KeptName(convert::SourceDeletion::Kept kept) {
  switch (kept) {
    case convert::SourceDeletion::Kept::kOutside:
      return "outside";
    case convert::SourceDeletion::Kept::kLinked:
      return "linked";
    case convert::SourceDeletion::Kept::kPassed:
      return "passed";
    case convert::SourceDeletion::Kept::kNo:
      break;
  }
  return "";
}

void Deletions(JsonWriter& json, const ConversionReport& report) {
  json.BeginArray("source_deletions");
  for (const convert::SourceDeletion& deletion : report.deletions) {
    json.BeginObject();
    StringMember(json, "shard", deletion.shard.string());
    StringMember(json, "file", deletion.file.string());
    json.Bool("deletes_file", deletion.file_goes());
    StringOrNullMember(json, "kept_because", KeptName(deletion.kept));
    StringOrNullMember(json, "other_link", deletion.other_link.string());
    json.Uint("freed_bytes", deletion.freed_bytes);
    json.EndObject();
  }
  json.EndArray();
}

void Plan(JsonWriter& json, const ConversionReport& report) {
  json.Key("plan");
  if (report.outcome != ConversionReport::Outcome::kPlanned) return json.Null();
  json.BeginObject();
  json.Uint("disk_needed_bytes", report.disk_needed_bytes);
  json.Uint("disk_free_bytes", report.disk_free_bytes);
  json.Uint("peak_memory_bytes", report.peak_memory_bytes);
  json.Bool("fits", report.fits);
  json.EndObject();
}

}  // namespace

void ConversionMembers(JsonWriter& json, const std::filesystem::path& input,
                       const std::filesystem::path& output, const ConversionReport& report,
                       std::string_view tool) {
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", report.recipe);
  StringMember(json, "outcome", OutcomeName(report.outcome));
  StringMember(json, "input", input.string());
  StringMember(json, "output", output.string());
  json.Uint("tensors", report.tensors);
  json.Uint("converted_tensors", report.converted_tensors);
  json.Uint("copied_tensors", report.copied_tensors);
  json.Uint("side_files", report.side_files);
  LeftBehindMember(json, report);
  json.Uint("source_bytes", report.source_bytes);
  json.Uint("output_bytes", report.output_bytes);
  Files(json, report);
  FindingsMember(json, "warnings", report.warnings);
  Counts(json, "nan_codes", report.nan_codes);
  Counts(json, "bad_scales", report.bad_scales);
  StringsMember(json, "all_zero", report.all_zero);
  Counts(json, "zero_runs", report.zero_runs);
  Counts(json, "zero_blocks", report.zero_blocks);
  QualityMember(json, report.quality, report.has_original);
  StringsMember(json, "already_fp8", report.already_fp8);
  json.Bool("resumed", report.resumed);
  json.Uint("kept_files", report.kept_files);
  json.Uint("missing_files", report.missing_files);
  json.Uint("freed_source_shards", report.freed_source_shards);
  json.Uint("freed_source_bytes", report.freed_source_bytes);
  Deletions(json, report);
  json.Double("seconds", report.seconds);
  json.Uint("bytes_read", report.bytes_read);
  json.Uint("bytes_written", report.bytes_written);
  Plan(json, report);
}

std::string ConversionReportJson(const JobRequest& request, const ConversionReport& report,
                                 std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  ConversionMembers(json, request.input, request.output, report, tool);
  for (const convert::ReportFact& fact : report.facts) {
    if (!fact.member.empty()) StringsMember(json, fact.member, fact.names);
  }
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
