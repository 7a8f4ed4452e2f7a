#include <algorithm>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/open/base_tensors.h"
#include "convert/open/completeness.h"
#include "convert/verify/checksum.h"
#include "convert/verify/checksum_basis.h"
#include "convert/verify/checksum_compare.h"
#include "convert/verify/checksum_gguf.h"
#include "convert/verify/checksum_packed.h"
#include "convert/verify/directory_files.h"
#include "convert/verify/unread_lists.h"
#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"
#include "formats/require_no_errors.h"
#include "formats/shard_index.h"
#include "formats/text_encoding.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

std::uint64_t BytesToRead(const std::vector<FileToDigest>& files) {
  std::uint64_t bytes = 0;
  for (const FileToDigest& file : files) {
    std::error_code error;
    const std::uint64_t size = fs::file_size(file.path, error);
    if (!error && (file.sha256 || file.git_blob_sha1)) bytes += size;
    for (const DigestRange& range : file.ranges) bytes += range.end - range.begin;
  }
  return bytes;
}

// The checksums of a GGUF file are about that file alone.
void NameGgufFile(const fs::path& directory, const std::vector<DirectoryFile>& listing) {
  for (const DirectoryFile& file : listing) {
    const std::string manifest = formats::GgufManifestName(file.name);
    const bool has_manifest =
        file.name.ends_with(".gguf") &&
        std::any_of(listing.begin(), listing.end(),
                    [&](const DirectoryFile& other) { return other.name == manifest; });
    if (!has_manifest) continue;
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: the checksums in it, {}, are those of a GGUF file alone; name the "
                            "file, {}",
                            formats::ShownPath(directory), QuoteForMessage(manifest),
                            formats::ShownPath(directory / file.name)),
                {directory.string(), ""});
  }
}

[[noreturn]] void FailWithoutBasis(const fs::path& directory) {
  const std::vector<DirectoryFile> listing = ListDirectory(directory);
  NameGgufFile(directory, listing);
  if (const std::optional<UnreadList> list = FindUnreadList(listing)) {
    const std::string problem =
        list->kind.empty()
            ? std::string(
                  "may be the publisher's list of digests, but files of this name are not "
                  "read; give --manifest FILE where it is a list as `sha256sum` writes it, "
                  "else make such a list of it; until then nothing says that the files are "
                  "right")
            : fmt::format(
                  "holds {} digests, which are not read, for SHA-256 is needed{}; check the "
                  "files with a program for these, or get the publisher's list of SHA-256 "
                  "digests",
                  list->kind,
                  list->kind.starts_with("CRC") ||
                          formats::AsciiLower(list->kind).starts_with("xxh")
                      ? " (they show damage, but no change that was made on purpose)"
                      : "");
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {} {}", formats::ShownPath(directory), QuoteForMessage(list->name),
                            problem),
                {(directory / list->name).string(), ""});
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: there is nothing to check against: no checkpoint.manifest.json, no "
                          "SHA256SUMS, no NAME.sha256 and no metadata of the hub; give --manifest, "
                          "or make checksums with `dsv3-verify checksum create` where the files "
                          "are right",
                          formats::ShownPath(directory)),
              {directory.string(), ""});
}

// The report of comparing with a basis, before anything is read.
CheckChecksumsReport Begin(ChecksumBasis& basis, bool quick) {
  CheckChecksumsReport report;
  report.basis = basis.kind;
  report.basis_name = basis.name;
  report.quick = quick;
  report.verification.check = "checksum";
  report.verification.findings = std::move(basis.findings);
  return report;
}

// Compares the files that the basis lists, and looks for others in the listing.
void CompareFiles(const ChecksumBasis& basis, const fs::path& directory,
                  const std::vector<DirectoryFile>& listing, unsigned threads,
                  ProgressSink& progress, const StopToken& stop, CheckChecksumsReport& report) {
  const std::vector<FileToDigest> files = FilesToCompare(basis, directory);
  for (const FileToDigest& file : files) report.verification.files.push_back(file.name);
  report.files = files.size();
  ChecksumComparison comparison;
  if (report.quick) {
    progress.OnPhase("comparing sizes and headers", 0);
    comparison = CompareQuickly(basis, directory, listing);
  } else {
    report.bytes = BytesToRead(files);
    progress.OnPhase("hashing", report.bytes);
    std::vector<FileDigest> digests = DigestFiles(files, threads, progress, stop);
    DigestsByName by_name;
    for (std::size_t i = 0; i < files.size(); ++i) {
      by_name.emplace(files[i].name, std::move(digests[i]));
    }
    comparison = CompareDigests(basis, directory, listing, by_name, threads, progress, stop);
    report.bytes += comparison.bytes_read;
  }
  std::move(comparison.findings.begin(), comparison.findings.end(),
            std::back_inserter(report.verification.findings));
}

CheckChecksumsReport CheckGguf(const CheckChecksumsRequest& request, ProgressSink& progress,
                               const StopToken& stop) {
  RequireBaseRead(request.base, /*is_read=*/false);
  GgufChecksums found = FindGgufChecksums(request.directory, request.manifest);
  if (!found.basis) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: there is nothing to check against: no {} and no list of SHA-256 "
                            "digests beside it names it; give --manifest",
                            formats::ShownPath(request.directory),
                            formats::GgufManifestName(request.directory.filename().string())),
                {request.directory.string(), ""});
  }
  CheckChecksumsReport report = Begin(*found.basis, request.quick);
  for (const auto& [name, expected] : found.basis->files) report.tensors += expected.tensors.size();
  CompareFiles(*found.basis, found.directory, found.there, request.threads, progress, stop, report);
  return report;
}

}  // namespace

std::string_view BasisName(CheckChecksumsReport::Basis basis) {
  switch (basis) {
    case CheckChecksumsReport::Basis::kManifest:
      return "manifest";
    case CheckChecksumsReport::Basis::kSha256Sums:
      return "sha256sums";
    case CheckChecksumsReport::Basis::kHubMetadata:
      return "hub-metadata";
    case CheckChecksumsReport::Basis::kPacked:
      return "packed";
  }
  return "";
}

bool HasChecksums(const std::filesystem::path& directory) {
  const bool is_gguf = formats::IsGgufFile(directory);
  const fs::path located = is_gguf ? directory : LocateDirectory(directory);
  try {
    if (is_gguf) return FindGgufChecksums(located, {}).basis.has_value();
    return FindChecksumBasis(located, {}, true).has_value();
  } catch (const Error&) {
    return true;
  }
}

CheckChecksumsReport CheckChecksums(const CheckChecksumsRequest& request, ProgressSink& progress,
                                    const StopToken& stop) {
  if (formats::IsGgufFile(request.directory)) return CheckGguf(request, progress, stop);
  const fs::path directory = LocateDirectory(request.directory);
  std::optional<ChecksumBasis> basis = FindChecksumBasis(directory, request.manifest, true);
  formats::Findings completeness = JudgeCompleteness(directory);
  if (!basis) {
    // Of what is not whole, that is what is to be said.
    formats::RequireNoErrors(completeness, {"fault like it", "faults like it"});
    FailWithoutBasis(directory);
  }
  const bool is_unreadable = basis->kind == CheckChecksumsReport::Basis::kPacked && !basis->packed;
  RequireBaseRead(request.base,
                  is_unreadable || (!request.quick && basis->packed && basis->packed->NeedsBase()));
  const std::vector<DirectoryFile> listing = ListDirectory(directory);

  CheckChecksumsReport report = Begin(*basis, request.quick);
  report.tensors = basis->packed ? basis->packed->tensors.size() : basis->manifest.tensors.size();
  if (is_unreadable) return report;
  CompareFiles(*basis, directory, listing, request.threads, progress, stop, report);
  formats::Findings& findings = report.verification.findings;
  if (basis->packed && !request.quick) {
    PackedComparison tensors = ComparePackedTensors(*basis->packed, directory, request.base,
                                                    request.threads, progress, stop);
    report.bytes += tensors.bytes_read;
    report.not_decoded = tensors.not_decoded;
    std::move(tensors.findings.begin(), tensors.findings.end(), std::back_inserter(findings));
  }
  // An index that is not as recorded does not say what must be there; one that a list leaves out
  // does.
  if (std::any_of(findings.begin(), findings.end(), [](const formats::Finding& finding) {
        return finding.severity == formats::Severity::kError &&
               finding.file == formats::kShardIndexName;
      })) {
    std::erase_if(completeness, [](const formats::Finding& finding) {
      return !finding.kind.starts_with("unfinished-");
    });
  }
  AddUnlessKnown(std::move(completeness), findings);
  return report;
}

}  // namespace dsv3::convert
