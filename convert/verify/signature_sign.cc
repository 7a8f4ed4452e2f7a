#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/broken_files.h"
#include "convert/open/completeness.h"
#include "convert/stream/file_digests.h"
#include "convert/verify/signature.h"
#include "convert/verify/signature_common.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/io/durable_file.h"
#include "formats/io/existence.h"
#include "formats/io/input_file.h"
#include "formats/json/utf8.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/signature_bundle.h"
#include "formats/signature_key.h"
#include "formats/signature_statement.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Fail(ErrorCode code, const std::string& file, std::string problem) {
  throw Error(code, std::move(problem), {.file = file, .tensor = {}});
}

// A path that was mistyped must not cost a file.
void RequireReplaceable(const fs::path& signature) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(signature, error);
  if (status.type() == fs::file_type::not_found) return;
  if (!fs::is_regular_file(fs::status(signature, error))) return;  // no signature can be there
  try {
    formats::ParseBundle(formats::ReadSmallFile(signature, kMaxSignatureBytes), signature.string());
  } catch (const Error&) {
    Fail(ErrorCode::kUsage, signature.string(),
         fmt::format("{}: a file of this name is there that is not a signature, so it is not "
                     "replaced; remove it, or give another --signature FILE",
                     formats::ShownPath(signature)));
  }
}

// Throws for whatever keeps a listing from being signed.
void RequireSignable(const ModelListing& listing) {
  for (const ModelFile& file : listing.files) {
    if (formats::FindInvalidUtf8(file.name) != file.name.size()) {
      Fail(ErrorCode::kBadInput, file.name,
           fmt::format(
               "{}: the name {} is not UTF-8, and a signature cannot hold it; rename the file",
               formats::ShownPath(listing.directory), formats::ShownPath(file.name)));
    }
  }
  if (!listing.oddities.empty()) {
    const ModelOddity& first = listing.oddities[0];
    std::string others;
    if (listing.oddities.size() > 1) {
      others = fmt::format(" (and {} more like it)", listing.oddities.size() - 1);
    }
    Fail(ErrorCode::kBadInput, first.name,
         fmt::format("{}: {} is {}{}; a signature covers regular files only, so remove it or put "
                     "the files themselves there",
                     formats::ShownPath(listing.directory), formats::ShownPath(first.name),
                     first.what, others));
  }
  if (listing.files.empty()) {
    Fail(ErrorCode::kBadInput, listing.directory.string(),
         fmt::format("{}: there is no file to sign; give a model's directory",
                     formats::ShownPath(listing.directory)));
  }
}

// Refuses a directory or a file that is not whole. What only may be missing is a warning.
// `unlisted` are the signature and what a killed run left of it.
formats::Findings RequireWholeModel(const ModelListing& listing, const IgnoredPaths& unlisted) {
  formats::Findings findings;
  if (!listing.single_file) {
    findings = JudgeCompleteness(listing.directory);
  } else if (!listing.files.empty()) {
    auto unreadable = FindUnreadableHeader(listing.files.front().path, listing.subject);
    if (unreadable) findings.push_back(*std::move(unreadable));
  }
  std::erase_if(findings, [&](const formats::Finding& finding) {
    return finding.kind == "unfinished-conversion" && IsIgnored(finding.file, unlisted);
  });
  RequireComplete(findings, "signing");
  return findings;
}

formats::Manifest ReadManifestOf(const ModelListing& listing) {
  const fs::path path = listing.directory / formats::kManifestName;
  if (listing.single_file || !formats::EntryExists(path)) {
    Fail(ErrorCode::kBadInput, path.string(),
         fmt::format("{}: there is no manifest whose digests could be used; make one with "
                     "'dsv3-verify checksum create', or sign without --use-manifest",
                     formats::ShownPath(path)));
  }
  return formats::ParseManifest(formats::ReadSmallFile(path, formats::kMaxManifestBytes),
                                path.string());
}

[[noreturn]] void FailManifest(const ModelListing& listing, const std::string& name,
                               const std::string& problem) {
  Fail(ErrorCode::kVerification, name,
       fmt::format("{}: the manifest does not describe this directory: {} {}; see 'dsv3-verify "
                   "checksum check', or sign without --use-manifest",
                   formats::ShownPath(listing.directory), formats::ShownPath(name), problem));
}

// Digests of listed files by position, as far as the manifest has them.
std::vector<std::string> DigestsFromManifest(const ModelListing& listing,
                                             const IgnoredPaths& ignored) {
  const formats::Manifest manifest = ReadManifestOf(listing);
  std::vector<std::string> digests(listing.files.size());
  std::size_t found = 0;
  std::size_t expected = 0;
  for (const formats::ManifestFile& file : manifest.files) {
    if (!IsIgnored(file.name, ignored)) ++expected;
    if (!file.sha256.empty()) continue;
    Fail(ErrorCode::kBadInput, file.name,
         fmt::format("{}: the manifest lists no SHA-256 for {} (--checksum none?); make one with "
                     "'dsv3-verify checksum create', or sign without --use-manifest",
                     formats::ShownPath(listing.directory), formats::ShownPath(file.name)));
  }
  for (std::size_t i = 0; i < listing.files.size(); ++i) {
    const ModelFile& file = listing.files[i];
    const formats::ManifestFile* known = manifest.FindFile(file.name);
    if (known == nullptr) continue;
    if (known->bytes != file.bytes) {
      FailManifest(listing, file.name,
                   fmt::format("has {} there and {} here", formats::ExactBytes(known->bytes),
                               formats::ExactBytes(file.bytes)));
    }
    digests[i] = known->sha256;
    ++found;
  }
  if (found == expected) return digests;
  for (const formats::ManifestFile& file : manifest.files) {
    if (!IsIgnored(file.name, ignored) && !formats::Exists(listing.directory / file.name)) {
      FailManifest(listing, file.name, "is listed there and missing here");
    }
  }
  return digests;
}

// Fills in what is empty in `digests`.
void ComputeDigests(const ModelListing& listing, unsigned threads, ProgressSink& progress,
                    const StopToken& stop, std::vector<std::string>& digests) {
  std::vector<FileToDigest> to_digest;
  std::vector<std::size_t> positions;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < listing.files.size(); ++i) {
    if (!digests[i].empty()) continue;
    FileToDigest file;
    file.name = listing.single_file ? listing.subject : listing.files[i].name;
    file.path = listing.files[i].path;
    to_digest.push_back(std::move(file));
    positions.push_back(i);
    bytes += listing.files[i].bytes;
  }
  progress.OnPhase("hashing", bytes);
  std::vector<FileDigest> computed = DigestFiles(to_digest, threads, progress, stop);
  for (std::size_t i = 0; i < computed.size(); ++i) {
    if (computed[i].error) throw Error(*computed[i].error);
    digests[positions[i]] = std::move(computed[i].sha256);
  }
}

}  // namespace

SignReport SignModel(const SignRequest& request, formats::FileSystem& file_system,
                     ProgressSink& progress, const StopToken& stop) {
  SignReport report;
  report.signature = SignaturePath(request.signature, request.model);
  report.directory = ModelDirectory(request.model);
  const formats::SigningKey key =
      formats::SigningKey::FromPem(ReadKeyFile(request.key), request.key.string());
  report.curve = key.curve();
  report.key_hint = key.hint();
  RequireReplaceable(report.signature);
  IgnoredPaths ignored = UnsignedPaths(report.directory, report.signature);
  IgnoredPaths unlisted = ignored;
  for (const std::string& path : ignored) unlisted.insert(path + ".partial");  // of a killed run
  const ModelListing listing = ListModel(request.model, unlisted);
  report.warnings = RequireWholeModel(listing, unlisted);
  RequireSignable(listing);

  try {
    formats::RequireWritable(file_system, report.signature);
  } catch (const Error& error) {
    if (!request.signature.empty()) throw;
    throw Error(error.code(), error.message() + "; --signature FILE writes it to another place",
                error.place());
  }
  std::vector<std::string> digests(listing.files.size());
  if (request.use_manifest) digests = DigestsFromManifest(listing, unlisted);
  for (std::size_t i = 0; i < listing.files.size(); ++i) {
    const std::uint64_t bytes = listing.files[i].bytes;
    report.bytes += bytes;
    report.symlinks = report.symlinks || listing.files[i].is_link;
    if (digests[i].empty()) {
      // Whether it can be read shows before hours of reading the others.
      const formats::InputFile opened(listing.files[i].path, listing.files[i].name);
      continue;
    }
    ++report.trusted_files;
    report.trusted_bytes += bytes;
  }
  report.files = listing.files.size();
  if (report.symlinks) {
    report.warnings.push_back(
        {formats::Severity::kWarning, "symlink", "", "",
         "some files are symbolic links: the files that they lead to are signed, and verifying "
         "follows the links; model_signing needs --allow_symlinks for it"});
  }
  for (const formats::Finding& warning : report.warnings) progress.OnWarning(warning.message);
  ComputeDigests(listing, request.threads, progress, stop, digests);

  formats::SignatureStatement statement;
  statement.subject = listing.subject;
  statement.allow_symlinks = report.symlinks;
  statement.ignore_paths.assign(ignored.begin(), ignored.end());
  for (std::size_t i = 0; i < listing.files.size(); ++i) {
    statement.files.push_back({listing.files[i].name, std::move(digests[i])});
  }
  report.root_digest = formats::RootDigest(statement.files);
  formats::SignatureBundle bundle;
  bundle.hint = key.hint();
  bundle.payload = formats::StatementText(statement);
  bundle.signature = key.Sign(formats::PreAuthenticationEncoding(bundle.payload));
  formats::WriteFileDurably(file_system, report.signature, formats::BundleText(bundle));
  return report;
}

}  // namespace dsv3::convert
