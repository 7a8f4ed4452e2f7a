#include <string>

#include "cli/conversion_report.h"
#include "cli/json_members.h"
#include "cli/quality_report.h"
#include "cli/version.h"

namespace dsv3::cli {

namespace {

using convert::ConversionReport;
using convert::ConversionRequest;
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
  json.Key("files");
  json.BeginArray();
  for (const convert::OutputFileReport& file : report.files) {
    json.BeginObject();
    StringMember(json, "name", file.name);
    UintMember(json, "bytes", file.bytes);
    UintMember(json, "tensors", file.tensors);
    StringOrNullMember(json, "sha256", file.sha256);
    BoolMember(json, "kept", file.kept);
    json.EndObject();
  }
  json.EndArray();
}

void Counts(JsonWriter& json, std::string_view key, const std::vector<TensorCount>& counts) {
  json.Key(key);
  json.BeginArray();
  for (const TensorCount& each : counts) {
    json.BeginObject();
    StringMember(json, "tensor", each.tensor);
    UintMember(json, "count", each.count);
    json.EndObject();
  }
  json.EndArray();
}

void Plan(JsonWriter& json, const ConversionReport& report) {
  json.Key("plan");
  if (report.outcome != ConversionReport::Outcome::kPlanned) return json.Null();
  json.BeginObject();
  UintMember(json, "disk_needed_bytes", report.disk_needed_bytes);
  UintMember(json, "disk_free_bytes", report.disk_free_bytes);
  UintMember(json, "peak_memory_bytes", report.peak_memory_bytes);
  BoolMember(json, "fits", report.fits);
  json.EndObject();
}

}  // namespace

std::string ConversionReportJson(const ConversionRequest& request, const ConversionReport& report,
                                 std::string_view tool) {
  JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "command", report.recipe);
  StringMember(json, "outcome", OutcomeName(report.outcome));
  StringMember(json, "input", request.input.string());
  StringMember(json, "output", request.output.string());
  UintMember(json, "tensors", report.tensors);
  UintMember(json, "converted_tensors", report.converted_tensors);
  UintMember(json, "copied_tensors", report.copied_tensors);
  UintMember(json, "side_files", report.side_files);
  UintMember(json, "source_bytes", report.source_bytes);
  UintMember(json, "output_bytes", report.output_bytes);
  Files(json, report);
  FindingsMember(json, "warnings", report.warnings);
  Counts(json, "nan_codes", report.nan_codes);
  Counts(json, "bad_scales", report.bad_scales);
  QualityMember(json, report.quality, !request.bf16_to_fp8.scales_from.empty());
  json.Key("already_fp8");
  json.BeginArray();
  for (const std::string& tensor : report.already_fp8) json.String(Utf8Of(tensor));
  json.EndArray();
  BoolMember(json, "resumed", report.resumed);
  UintMember(json, "kept_files", report.kept_files);
  UintMember(json, "freed_source_shards", report.freed_source_shards);
  DoubleMember(json, "seconds", report.seconds);
  UintMember(json, "bytes_read", report.bytes_read);
  UintMember(json, "bytes_written", report.bytes_written);
  Plan(json, report);
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
