#include <memory>
#include <string>

#include <fmt/format.h>

#include "cli/base_option.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/json_members.h"
#include "cli/tool_main.h"
#include "cli/units.h"
#include "cli/verify_report.h"
#include "convert/verify/checksum.h"
#include "formats/io/file_system.h"
#include "formats/message_text.h"

namespace dsv3::cli {

namespace {

constexpr const char* kDirectoryHelp =
    "The model directory, or a model directory of the Hugging Face hub cache.";

struct CreateOptions {
  VerifyOptions verify;
  std::string directory;
  std::string output;
  bool overwrite = false;
};

VerifyReport Create(const CreateOptions& options, CommandContext& context) {
  convert::CreateChecksumsRequest request;
  request.directory = options.directory;
  request.overwrite = options.overwrite;
  request.output = options.output;
  request.threads = options.verify.threads;
  const auto held = std::make_shared<const convert::CreateChecksumsReport>(convert::CreateChecksums(
      request, formats::PosixFileSystem(), context.progress, context.stop));
  const convert::CreateChecksumsReport& created = *held;
  VerifyReport report;
  report.input = options.directory;
  report.verification = created.verification;
  report.passes = created.written;
  if (created.written) {
    report.title = "Wrote checkpoint.manifest.json and SHA256SUMS: " +
                   formats::ShownPath(options.output.empty() ? options.directory : options.output);
    report.good = "the checksums are in place";
    // Checksums that were replaced on request are not a fault any more.
    for (formats::Finding& finding : report.verification.findings) {
      finding.severity = formats::Severity::kWarning;
    }
    if (created.replaced) {
      report.consequence = "the old checksums differed there and were replaced";
    }
  } else {
    report.title =
        "Compared with the checksums that are there: " + formats::ShownPath(options.directory);
    report.consequence =
        created.list_unreadable
            ? "nothing was written: the checksums that are there cannot be read, so it is not "
              "known whether the files are right"
            : "nothing was written; if the files are right and the checksums that are there are "
              "not, give --overwrite to replace these";
  }
  report.lines.emplace_back("files", fmt::format("{}, {}", FormatCountOf(created.files, "file"),
                                                 FormatBytes(created.bytes)));
  if (created.written) {
    report.lines.emplace_back("tensors", FormatCount(created.tensors));
    report.lines.emplace_back("content", created.content_digest);
    report.lines.emplace_back("provenance", created.kept_provenance
                                                ? "kept from the manifest that was there"
                                                : "none: no manifest of a conversion was there");
  }
  if (created.written && !options.output.empty()) {
    report.lines.emplace_back(
        "check with", fmt::format("dsv3-verify checksum check --manifest {} {}",
                                  formats::ShownPath(created.output / "checkpoint.manifest.json"),
                                  formats::ShownPath(options.directory)));
  }
  report.members = [held, &created](formats::JsonWriter& json) {
    json.Bool("written", created.written);
    StringOrNullMember(json, "output", created.output.string());
    json.Bool("kept_provenance", created.kept_provenance);
    json.Uint("file_count", created.files);
    json.Uint("bytes", created.bytes);
    json.Uint("tensors", created.tensors);
    StringOrNullMember(json, "content_digest", created.content_digest);
  };
  return report;
}

struct CheckOptions {
  VerifyOptions verify;
  std::string directory;
  ChecksumOptions checksums;
};

std::string Basis(const convert::CheckChecksumsReport& checked) {
  switch (checked.basis) {
    case convert::CheckChecksumsReport::Basis::kSha256Sums:
      return checked.basis_name + ", which lists files, not tensors";
    case convert::CheckChecksumsReport::Basis::kHubMetadata:
      return checked.basis_name + ", which the download left there";
    case convert::CheckChecksumsReport::Basis::kManifest:
    case convert::CheckChecksumsReport::Basis::kPacked:
      break;
  }
  return checked.basis_name;
}

}  // namespace

VerifyReport CheckChecksums(const std::string& directory, const ChecksumOptions& checksums,
                            const VerifyOptions& options, CommandContext& context) {
  convert::CheckChecksumsRequest request;
  request.directory = directory;
  request.manifest = checksums.manifest;
  request.quick = checksums.quick;
  request.base = checksums.base;
  request.threads = options.threads;
  const auto held = std::make_shared<const convert::CheckChecksumsReport>(
      convert::CheckChecksums(request, context.progress, context.stop));
  const convert::CheckChecksumsReport& checked = *held;
  VerifyReport report;
  report.input = directory;
  report.verification = checked.verification;
  report.passes = checked.verification.Passes(options.strict);
  report.title = "Checked the checksums of " + formats::ShownPath(directory);
  report.good = checked.quick ? "sizes and headers are as recorded; the data was not read"
                              : "every file is as recorded";
  report.lines.emplace_back("against", Printable(Basis(checked)));
  report.lines.emplace_back(
      "files", checked.quick
                   ? fmt::format("{}, sizes and headers only", FormatCountOf(checked.files, "file"))
                   : fmt::format("{}, {} read", FormatCountOf(checked.files, "file"),
                                 FormatBytes(checked.bytes)));
  if (checked.not_decoded > 0) {
    report.lines.emplace_back(
        "tensors", fmt::format("{}, {} not decoded: they hold differences, and --base DIR is not "
                               "given",
                               FormatCount(checked.tensors), FormatCount(checked.not_decoded)));
  } else if (checked.tensors > 0) {
    report.lines.emplace_back("tensors", FormatCount(checked.tensors));
  }
  report.members = [held, &checked](formats::JsonWriter& json) {
    StringMember(json, "basis", convert::BasisName(checked.basis));
    StringMember(json, "basis_name", checked.basis_name);
    json.Bool("quick", checked.quick);
    json.Uint("file_count", checked.files);
    json.Uint("bytes", checked.bytes);
    json.Uint("tensors", checked.tensors);
    json.Uint("tensors_not_decoded", checked.not_decoded);
  };
  return report;
}

Command ChecksumCreateCommand() {
  const auto options = std::make_shared<CreateOptions>();
  Command command;
  command.name = "checksum create";
  command.summary = "write checksums of a model directory";
  command.description = {
      "Reads every file of DIR once and writes checkpoint.manifest.json, with a SHA-256 for each "
      "file, a digest for each tensor and a content digest that does not depend on how the "
      "weights are split into files, and SHA256SUMS, which 'sha256sum -c' accepts.",
      "Where there are checksums already, the files are compared with them first. When they "
      "differ, the differences are listed, nothing is written, and the exit code is 1. The facts "
      "about a conversion in the old manifest are kept.",
      "A directory is refused where shards that the index lists are missing, or where a conversion "
      "or a download is not finished."};
  command.arguments = {{"DIR", kDirectoryHelp, &options->directory}};
  command.options = {
      PathOption(
          "output", "OUT", PathUse::kOutputDirectory, &options->output,
          "Write the two files to this directory and not to DIR, which may be read-only then. "
          "'checksum check --manifest OUT/checkpoint.manifest.json DIR' checks with them, and so "
          "does 'sha256sum -c OUT/SHA256SUMS' within DIR."),
      Flag("overwrite", &options->overwrite, "Replace checksums that the files differ from.", 'f'),
      ThreadsOption(&options->verify)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {
      {"checksum create DeepSeek-V3", "Write checksums of a download"},
      {"checksum create /models/DeepSeek-V3 --output sums", "Write checksums of a read-only copy"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->directory, options->verify, context,
                    [&] { return Create(*options, context); });
  };
  return command;
}

Command ChecksumCheckCommand() {
  const auto options = std::make_shared<CheckOptions>();
  Command command;
  command.name = "checksum check";
  command.summary = "compare a model directory with its checksums";
  command.description = {
      "Compares the files of DIR with the first of these that is there: the manifest or list that "
      "--manifest names, checkpoint.manifest.json in DIR, lists of SHA-256 digests in DIR "
      "(SHA256SUMS, NAME.sha256 and like names, in the forms of sha256sum, openssl and BSD), and "
      "what a download "
      "from the Hugging Face hub left behind. No network is used.",
      "Every difference is listed: files that changed (and which of their tensors, where there is "
      "a manifest), files that are missing, and files that are not listed. Any of them makes the "
      "exit code 1, and so do files that the index or the hub's listing says must be there; with "
      "nothing to compare with, or a conversion that is not finished, it is 3. Files that a list "
      "of digests does not name are warnings.",
      "A packed checkpoint is compared with its packed.json, and its tensors are unpacked. Those "
      "that hold differences are unpacked with --base alone; without it their files are compared, "
      "and the report says how many were not decoded.",
      "Of a GGUF file, it is compared, or all splits of its model, with the manifest that to-gguf "
      "wrote beside it, or else with what names it in its directory."};
  command.arguments = {{"DIR",
                        "The model directory, a model directory of the Hugging Face hub cache, or "
                        "a GGUF file.",
                        &options->directory}};
  command.options = {
      PathOption("manifest", "FILE", PathUse::kInputFile, &options->checksums.manifest,
                 "Compare with this manifest or list of SHA-256 digests, whatever checksums DIR "
                 "has."),
      BaseOption(&options->checksums.base, "DIR"),
      Flag("quick", &options->checksums.quick,
           "Compare sizes and headers only. The data is not read, so damage within it is not "
           "found."),
      StrictOption(&options->verify), ThreadsOption(&options->verify)};
  AppendReportOptions(&options->verify, command.options);
  command.examples = {{"checksum check DeepSeek-V3", "Check a copy or a download"},
                      {"checksum check --manifest v3.manifest.json DeepSeek-V3",
                       "Check against a manifest from elsewhere"}};
  command.stops_by_itself = true;
  command.returns_data = true;
  command.run = [options](CommandContext& context) {
    return RunCheck(options->directory, options->verify, context, [&] {
      return CheckChecksums(options->directory, options->checksums, options->verify, context);
    });
  };
  return command;
}

}  // namespace dsv3::cli
