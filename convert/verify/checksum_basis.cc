#include "convert/verify/checksum_basis.h"

#include <algorithm>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "convert/open/hub.h"
#include "convert/open/packed_model.h"
#include "convert/plan/container.h"
#include "convert/verify/checksum_lists.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/sums_file.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

using formats::Findings;
using formats::Severity;

formats::Finding BasisFinding(Severity severity, std::string kind, std::string_view file,
                              std::string message) {
  return {.severity = severity,
          .kind = std::move(kind),
          .file = std::string(file),
          .tensor = {},
          .message = std::move(message),
          .unreadable = false};
}

// SHA256SUMS lists the manifest; another digest there means that one of the two is of another time.
void CompareManifestWithSums(const fs::path& directory, const std::string& text,
                             Findings& findings) {
  const fs::path path = directory / formats::kSumsName;
  if (!formats::EntryExists(path)) return;
  formats::SumsFile sums;
  try {
    sums = formats::ParseSums(formats::ReadSmallFile(path, formats::kMaxSumsBytes));
  } catch (const Error&) {
    return;  // it is not what is used
  }
  formats::Sha256 hash;
  hash.Update(std::as_bytes(std::span(text)));
  const std::string digest = hash.FinishHex();
  for (const formats::SumsEntry& entry : sums.entries) {
    if (entry.name != formats::kManifestName || entry.sha256 == digest) continue;
    findings.push_back(BasisFinding(
        Severity::kWarning, "outdated-sums", formats::kSumsName,
        fmt::format("{}: it lists another digest for {}, so one of them is from another time; if "
                    "nothing else differs, make both again with `dsv3-verify checksum create`",
                    formats::kSumsName, formats::kManifestName)));
    return;
  }
}

ChecksumBasis FromManifest(formats::Manifest manifest, std::string name) {
  ChecksumBasis basis;
  basis.kind = CheckChecksumsReport::Basis::kManifest;
  basis.name = std::move(name);
  basis.manifest = std::move(manifest);
  for (const formats::ManifestFile& file : basis.manifest.files) {
    ExpectedFile& expected = basis.files[file.name];
    expected.bytes = file.bytes;
    expected.sha256 = file.sha256;
    expected.header_xxh3 = file.header_xxh3;
    expected.record = basis.name;
    if (const Container* const container = ContainerOf(file.name)) {
      expected.alignment = container->alignment();
    }
  }
  for (const formats::ManifestTensor& tensor : basis.manifest.tensors) {
    basis.files[tensor.file].tensors.push_back(&tensor);
  }
  if (!basis.manifest.content_digest.empty() &&
      basis.manifest.content_digest != formats::ContentDigest(basis.manifest.tensors)) {
    basis.findings.push_back(BasisFinding(
        Severity::kError, "inconsistent-manifest", basis.name,
        fmt::format("{}: its content digest is not that of the tensors that it lists, so it was "
                    "changed after it was written; restore it",
                    formats::ShownPath(basis.name))));
  }
  return basis;
}

ChecksumBasis FromHub(HubRecords records) {
  ChecksumBasis basis;
  basis.kind = CheckChecksumsReport::Basis::kHubMetadata;
  basis.name = std::move(records.description);
  basis.findings = std::move(records.findings);
  for (auto& [name, file] : records.files) {
    ExpectedFile& expected = basis.files[name];
    expected.bytes = file.bytes;
    expected.sha256 = std::move(file.sha256);
    expected.git_blob_sha1 = std::move(file.git_blob_sha1);
    expected.pointer_sha1 = std::move(file.pointer_sha1);
    expected.outdated = file.outdated;
    expected.record = std::move(file.record);
  }
  return basis;
}

ChecksumBasis FromPacked(PackedManifest manifest) {
  ChecksumBasis basis;
  basis.kind = CheckChecksumsReport::Basis::kPacked;
  basis.name = kPackedManifestName;
  basis.lists.insert(basis.name);
  for (const PackedManifestFile& file : manifest.files) {
    ExpectedFile& expected = basis.files[file.packed ? file.PackedName() : file.name];
    expected.bytes = file.packed ? file.packed_bytes : file.bytes;
    expected.sha256 = file.packed ? file.packed_sha256 : file.sha256;
    expected.record = basis.name;
  }
  basis.packed = std::move(manifest);
  return basis;
}

}  // namespace

std::optional<std::vector<DigestRange>> ExpectedFile::Layout() const {
  const std::uint64_t file_bytes = bytes.value_or(0);
  std::vector<DigestRange> ranges;  // from the first tensor on
  std::uint64_t data_bytes = 0;
  for (const formats::ManifestTensor* tensor : tensors) {
    const std::uint64_t size = formats::NumBytes(tensor->dtype, tensor->shape).value_or(0);
    const std::uint64_t gap = (alignment - data_bytes % alignment) % alignment;
    if (gap > file_bytes - data_bytes || size > file_bytes - data_bytes - gap) return std::nullopt;
    ranges.push_back({data_bytes + gap, data_bytes + gap + size});
    data_bytes = ranges.back().end;
  }
  // The last tensor may be filled up to the alignment.
  const std::uint64_t head_bytes = (file_bytes - data_bytes) / alignment * alignment;
  for (DigestRange& range : ranges) {
    range.begin += head_bytes;
    range.end += head_bytes;
  }
  return ranges;
}

formats::Manifest ReadManifestFile(const fs::path& path) {
  return formats::ParseManifest(formats::ReadSmallFile(path, formats::kMaxManifestBytes),
                                path.string());
}

namespace {

// Whether a file that was named is a manifest, whatever its state, and not a list of digests.
bool IsManifest(const fs::path& file) {
  if (file.filename() == formats::kManifestName) return true;
  const std::string text = formats::ReadSmallFile(file, formats::kMaxManifestBytes);
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  return begin != text.npos && text[begin] == '{';
}

}  // namespace

std::optional<ChecksumBasis> FindChecksumBasis(const fs::path& directory, const fs::path& manifest,
                                               bool with_hub) {
  if (!manifest.empty()) {
    if (!IsManifest(manifest)) return ReadSumsList(manifest, directory);
    return FromManifest(ReadManifestFile(manifest), manifest.string());
  }
  // A manifest beside it describes the files that come out of unpacking.
  if (IsPackedAlone(directory)) {
    try {
      return FromPacked(ReadPackedManifest(directory));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kBadInput) throw;
      ChecksumBasis unreadable;
      unreadable.kind = CheckChecksumsReport::Basis::kPacked;
      unreadable.name = kPackedManifestName;
      unreadable.findings.push_back(BasisFinding(Severity::kError, "unreadable-manifest",
                                                 kPackedManifestName, error.message()));
      return unreadable;
    }
  }
  Findings findings;
  std::optional<Error> unreadable;
  // Whatever cannot be read is a finding as long as something else says what the files must be.
  const auto note = [&](std::string_view kind, std::string_view file, const Error& error) {
    findings.push_back(BasisFinding(Severity::kError, std::string(kind), file, error.message()));
    if (!unreadable) unreadable = error;
  };
  std::optional<ChecksumBasis> basis;
  if (formats::EntryExists(directory / formats::kManifestName)) {
    try {
      const std::string text =
          formats::ReadSmallFile(directory / formats::kManifestName, formats::kMaxManifestBytes);
      const std::string name(formats::kManifestName);
      basis = FromManifest(formats::ParseManifest(text, name), name);
      CompareManifestWithSums(directory, text, basis->findings);
    } catch (const Error& error) {
      note("unreadable-manifest", formats::kManifestName, error);
    }
  }
  if (!basis) {
    SumsLists lists = ReadSumsLists(directory);
    for (const Error& error : lists.unreadable) note("unreadable-sums", error.place().file, error);
    basis = std::move(lists.basis);
  }
  if (!basis && with_hub) {
    if (std::optional<HubRecords> records = ReadHubRecords(directory)) {
      basis = FromHub(std::move(*records));
    }
  }
  if (!basis) {
    if (unreadable) throw *unreadable;
    return std::nullopt;
  }
  basis->findings.insert(basis->findings.begin(), findings.begin(), findings.end());
  return basis;
}

}  // namespace dsv3::convert
