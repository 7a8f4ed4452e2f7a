#include "cli/conversion_report.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <fmt/format.h>

#include "cli/deletion_text.h"
#include "cli/quality_report.h"
#include "cli/units.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

using convert::ConversionReport;
using convert::JobRequest;
using convert::TensorCount;
using formats::LeftBehind;
using formats::LeftBehindKind;

// Files of a plan that are listed one by one.
constexpr std::size_t kMostListed = 32;

// "total, a dequantised, b copied" and so on, for both kinds of report.
std::string TensorText(const ConversionReport& report) {
  const std::string copied = FormatCount(report.copied_tensors) + " copied untouched";
  if (report.converted_tensors == 0) return FormatCount(report.tensors) + ": " + copied;
  return fmt::format("{}: {} {}, {}", FormatCount(report.tensors),
                     FormatCount(report.converted_tensors), report.converted_text, copied);
}

void CountLine(std::string& out, std::string_view label, std::string_view what,
               const std::vector<TensorCount>& counts) {
  if (counts.empty()) return;
  std::uint64_t total = 0;
  for (const TensorCount& each : counts) total += each.count;
  ReportLine(
      out, label,
      fmt::format("{} in {}", FormatCountOf(total, what), FormatCountOf(counts.size(), "tensor")));
}

// Tensors that warnings name, of each kind.
constexpr std::size_t kWarned = 5;

// One warning for each of the first few tensors, and one for the others together.
void WarnByTensor(convert::ProgressSink& progress, std::string_view what, std::string_view effect,
                  const std::vector<TensorCount>& counts) {
  for (std::size_t i = 0; i < std::min(kWarned, counts.size()); ++i) {
    progress.OnWarning(fmt::format("tensor '{}' has {}{}", counts[i].tensor,
                                   FormatCountOf(counts[i].count, what), effect));
  }
  if (counts.size() <= kWarned) return;
  progress.OnWarning(fmt::format("{} have {}s as well; --json lists all of them",
                                 FormatCountOf(counts.size() - kWarned, "more tensor"), what));
}

// In the same way of weights that are all zero.
void WarnOfZeros(convert::ProgressSink& progress, const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < std::min(kWarned, names.size()); ++i) {
    progress.OnWarning(
        fmt::format("tensor '{}' is all zero; if the model was trained, a part of its file was "
                    "never written: check IN with dsv3-verify numeric",
                    names[i]));
  }
  if (names.size() <= kWarned) return;
  const std::size_t more = names.size() - kWarned;
  progress.OnWarning(fmt::format("{} {} all zero as well; --json lists all of them",
                                 FormatCountOf(more, "more weight"), more == 1 ? "is" : "are"));
}

// The command that completes a job of which this run made a part.
std::string ToComeText(const convert::RunOptions& run, std::uint64_t missing_files) {
  const std::string files = FormatCountOf(missing_files, "weight file");
  if (!run.part) return files + " of other ranks; layout.json comes with the last of them";
  if (missing_files > 0) return files + " of other parts, then the same command with --finish";
  return "once all parts are made, the same command with --finish instead of --part";
}

struct LeftBehindOfKind {
  LeftBehindKind kind;
  std::string_view name;
};

constexpr std::array<LeftBehindOfKind, 7> kLeftBehindKinds = {{
    {LeftBehindKind::kOtherWeights, "weights in other formats"},
    {LeftBehindKind::kAdapter, "adapters"},
    {LeftBehindKind::kTrainingState, "training states"},
    {LeftBehindKind::kOtherIndex, "other indexes"},
    {LeftBehindKind::kChecksums, "checksum lists"},
    {LeftBehindKind::kSystemRecord, "records of downloads and systems"},
    {LeftBehindKind::kUntrueDescription, "descriptions that are no longer true"},
}};

// The side files that stay in the source, a line for each kind.
void LeftBehindLines(std::string& out, const ConversionReport& report) {
  if (report.left_behind.empty()) return;
  constexpr std::size_t kNamed = 3;
  std::uint64_t bytes = 0;
  for (const LeftBehind& each : report.left_behind) bytes += each.bytes;
  ReportLine(out, "left behind",
             fmt::format("{}, {}; --side-files all copies {} as well",
                         FormatCountOf(report.left_behind.size(), "file"), FormatBytes(bytes),
                         report.left_behind.size() == 1 ? "it" : "them"));
  for (const auto& [kind, name] : kLeftBehindKinds) {
    std::uint64_t count = 0;
    std::uint64_t bytes_of_kind = 0;
    std::string names;
    for (const LeftBehind& each : report.left_behind) {
      if (each.kind != kind) continue;
      bytes_of_kind += each.bytes;
      if (count++ < kNamed) names += (names.empty() ? "" : ", ") + formats::ShownPath(each.name);
    }
    if (count == 0) continue;
    if (count > kNamed) names += fmt::format(" and {} more", FormatCount(count - kNamed));
    out += fmt::format("    {}, {}: {}\n", name, FormatBytes(bytes_of_kind), names);
  }
}

void WarningLines(std::string& out, const ConversionReport& report) {
  if (!report.warnings.empty()) {
    ReportLine(out, "warnings",
               FormatCountOf(report.warnings.size(), "warning") + ", printed above");
  }
  CountLine(out, "NaN codes", "FP8 NaN code", report.nan_codes);
  CountLine(out, "bad scales", "bad scale", report.bad_scales);
  if (!report.all_zero.empty()) {
    ReportLine(out, "all zero", FormatCountOf(report.all_zero.size(), "weight"));
  }
  CountLine(out, "holes", "zero run", report.zero_runs);
  CountLine(out, "zero blocks", "zero block", report.zero_blocks);
}

// The files that are deleted, under the label.
void DeletionReportLines(std::string& out, std::string_view label, const ConversionReport& report) {
  if (report.deletions.empty()) return;
  ReportLine(out, label, DeletionTotal(report.deletions));
  for (const std::string& line : DeletionLines(report.deletions)) ReportLine(out, "", line);
}

void FactLines(std::string& out, const ConversionReport& report) {
  for (const convert::ReportFact& fact : report.facts) {
    if (!fact.text.empty()) ReportLine(out, fact.label, fact.text);
    for (const std::string& line : fact.lines) ReportLine(out, "", "  " + line);
  }
}

std::string Converted(const JobRequest& request, const ConversionReport& report) {
  std::string out = fmt::format("{}: {}\n", report.title, formats::ShownPath(report.made));
  ReportLine(out, "tensors", TensorText(report));
  FactLines(out, report);
  AppendRunLines(out, request.run, report);
  if (report.outcome != ConversionReport::Outcome::kPartDone) {
    ReportLine(out, "manifest", formats::ShownPath(report.last_file));
  }
  out += QualityText(report.quality, report.has_original);
  return out;
}

// How many files there are and how large, where they are too many to be listed.
std::string FileSizesText(const ConversionReport& report) {
  const auto [smallest, largest] =
      std::minmax_element(report.files.begin(), report.files.end(),
                          [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  const auto finished = std::count_if(report.files.begin(), report.files.end(),
                                      [](const auto& file) { return file.kept; });
  return fmt::format(
      "{}, {} to {}{}; --json lists them", FormatCount(report.files.size()),
      FormatBytes(smallest->bytes), FormatBytes(largest->bytes),
      finished == 0
          ? ""
          : fmt::format(", {} finished", FormatCount(static_cast<std::uint64_t>(finished))));
}

std::string Planned(const JobRequest& request, const ConversionReport& report) {
  std::string out = PlannedFilesText(request.output, report);
  out += "\n";
  ReportLine(out, "tensors", TensorText(report));
  FactLines(out, report);
  AppendPlanLines(out, report);
  return out;
}

}  // namespace

void ReportLine(std::string& out, std::string_view label, const std::string& text) {
  out += fmt::format("  {:<11} {}\n", label, text);
}

std::string ManifestText(const std::filesystem::path& output) {
  return formats::ShownPath(output / "checkpoint.manifest.json");
}

void AppendRunLines(std::string& out, const convert::RunOptions& run,
                    const ConversionReport& report) {
  std::uint64_t bytes = 0;  // a part is less than report.output_bytes
  for (const convert::OutputFileReport& file : report.files) bytes += file.bytes;
  ReportLine(out, "files",
             fmt::format("{}, {}; {} copied", FormatCountOf(report.files.size(), "weight file"),
                         FormatBytes(bytes), FormatCountOf(report.side_files, "side file")));
  LeftBehindLines(out, report);
  const std::uint64_t moved = report.bytes_read + report.bytes_written;
  std::string time = FormatSeconds(report.seconds);
  if (report.seconds > 0) {
    time += fmt::format(": {} read and {} written, {:.2f} GB/s together",
                        FormatBytes(report.bytes_read), FormatBytes(report.bytes_written),
                        static_cast<double>(moved) / report.seconds / 1e9);
  }
  ReportLine(out, "time", time);
  if (report.resumed) {
    ReportLine(out, "continued",
               "an earlier run, of which " + FormatCountOf(report.kept_files, "finished shard") +
                   (report.kept_files == 1 ? " was" : " were") + " checked and kept");
  }
  if (run.delete_source_shards) {
    ReportLine(out, "deleted", FormatCountOf(report.freed_source_shards, "source shard"));
    DeletionReportLines(out, "freed", report);
  }
  WarningLines(out, report);
  if (report.outcome != ConversionReport::Outcome::kPartDone) return;
  ReportLine(out, "to come", ToComeText(run, report.missing_files));
}

std::string NothingToDoText(const std::filesystem::path& output, const ConversionReport& report) {
  std::string out = fmt::format(
      "Nothing to do: {} holds the finished result of this command\n({}, {}; sizes and headers "
      "checked, nothing touched).\n",
      formats::ShownPath(output), FormatCountOf(report.files.size(), "weight file"),
      FormatBytes(report.output_bytes));
  WarningLines(out, report);
  return out;
}

std::string PlannedFilesText(const std::filesystem::path& output, const ConversionReport& report) {
  std::string out = fmt::format("Plan for {} (nothing was written)\n", formats::ShownPath(output));
  if (report.files.size() > kMostListed) return out;
  std::size_t width = std::string_view("file").size();
  for (const auto& file : report.files)
    width = std::max(width, formats::ShownPath(file.name).size());
  out += fmt::format("\n  {:<{}}  {:>9}  {:>19}\n", "file", width, "tensors", "bytes");
  for (const auto& file : report.files) {
    out += fmt::format("  {:<{}}  {:>9}  {:>19}{}\n", formats::ShownPath(file.name), width,
                       FormatCount(file.tensors), FormatCount(file.bytes),
                       file.kept ? "  finished" : "");
  }
  return out;
}

void AppendPlanLines(std::string& out, const ConversionReport& report) {
  if (report.files.size() > kMostListed) ReportLine(out, "files", FileSizesText(report));
  ReportLine(out, "to read", formats::ExactBytes(report.source_bytes));
  ReportLine(out, "to write",
             fmt::format("{} in {}; {}", formats::ExactBytes(report.output_bytes),
                         FormatCountOf(report.files.size(), "weight file"),
                         FormatCountOf(report.side_files, "side file")));
  LeftBehindLines(out, report);
  ReportLine(out, "disk needed", formats::ExactBytes(report.disk_needed_bytes));
  ReportLine(out, "disk free", formats::ExactBytes(report.disk_free_bytes));
  ReportLine(out, "peak memory", "about " + FormatBytes(report.peak_memory_bytes));
  DeletionReportLines(out, "to delete", report);
  WarningLines(out, report);
  if (report.fits) return ReportLine(out, "fits", "yes");
  std::string advice = "free it or choose another OUT";
  if (report.fits_with_deletion) {
    advice += ",\n              or free the source on the way with --delete-source-shards";
  }
  ReportLine(out, "fits",
             fmt::format("no, {} more disk space is needed: {}",
                         FormatBytes(report.disk_needed_bytes - report.disk_free_bytes), advice));
}

void WarnOfCounts(const ConversionReport& report, convert::ProgressSink& progress) {
  WarnByTensor(progress, "FP8 NaN code", ", which became BF16 NaN", report.nan_codes);
  WarnByTensor(progress, "bad scale", " (NaN, infinite, negative or zero), used as it is",
               report.bad_scales);
  WarnByTensor(progress, "NaN or infinite value", ", saturated", NonfiniteCounts(report.quality));
  WarnOfZeros(progress, report.all_zero);
  WarnByTensor(progress, "zero run",
               " (2048 zero bytes or more), which no trained weight has: a part of its file was "
               "never written; check IN with dsv3-verify numeric",
               report.zero_runs);
  WarnByTensor(progress, "zero block",
               " under a scale that no tool writes for zeros: a part of its file was never "
               "written; check IN with dsv3-verify numeric",
               report.zero_blocks);
}

std::string ConversionReportText(const JobRequest& request, const ConversionReport& report) {
  switch (report.outcome) {
    case ConversionReport::Outcome::kNothingToDo:
      return NothingToDoText(report.made, report);
    case ConversionReport::Outcome::kPlanned:
      return Planned(request, report);
    case ConversionReport::Outcome::kPartDone:
    case ConversionReport::Outcome::kConverted:
      break;
  }
  return Converted(request, report);
}

}  // namespace dsv3::cli
