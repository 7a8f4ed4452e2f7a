#include "convert/verify/checksum_compare.h"

#include <algorithm>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/hub.h"
#include "convert/verify/checksum_header.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/git_blob.h"
#include "formats/io/dead_link.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

using formats::Finding;
using formats::Findings;

constexpr std::string_view kAdvice = "download or copy the file again";
constexpr std::uint64_t kMaxPointerBytes = 1024;

std::string OfThePointer(const FileDigest& digest) {
  const std::string text = LfsPointerText({digest.sha256, digest.bytes});
  return formats::GitBlobSha1Hex(std::as_bytes(std::span(text)));
}

// For a file that is not as expected: says so when it is a git-lfs pointer in the content's place.
std::optional<Finding> PointerFinding(const std::string& name, const fs::path& path,
                                      const ExpectedFile& expected) {
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(path, error);
  if (error || bytes >= kMaxPointerBytes) return std::nullopt;
  std::optional<LfsPointer> pointer;
  try {
    pointer = ParseLfsPointer(formats::ReadSmallFile(path, kMaxPointerBytes));
  } catch (const Error&) {
    return std::nullopt;
  }
  if (!pointer) return std::nullopt;
  std::string_view which;
  if (!expected.sha256.empty()) {
    which = pointer->sha256 == expected.sha256 ? " (of the content that is expected)"
                                               : " (of another content than is expected)";
  }
  return Difference(
      "lfs-pointer", name, "",
      fmt::format("{}: it is a git-lfs pointer to {}{}, not the content; run `git lfs pull`, "
                  "or download the file again",
                  formats::ShownPath(name), formats::ExactBytes(pointer->bytes), which));
}

Finding WrongDigest(const std::string& name, const ExpectedFile& expected,
                    std::string_view algorithm, const std::string& found,
                    const std::string& wanted) {
  if (expected.outdated) {
    return Difference(
        "outdated-record", name, "",
        fmt::format("{}: the file was changed after the hub's record of it was written ({}), and "
                    "its {} is {}, recorded was {}; {}",
                    formats::ShownPath(name), expected.record, algorithm, found, wanted, kAdvice));
  }
  return Difference("wrong-digest", name, "",
                    fmt::format("{}: its {} is {}, expected {} ({}); {}", formats::ShownPath(name),
                                algorithm, found, wanted, expected.record, kAdvice));
}

// A file that is there, as far as the whole of it goes; nothing when it is as expected.
std::optional<Finding> CompareWhole(const std::string& name, const ExpectedFile& expected,
                                    const FileDigest& digest) {
  if (digest.error) return Unreadable(name, *digest.error);
  if (expected.bytes && digest.bytes != *expected.bytes) {
    return Difference("wrong-size", name, "",
                      fmt::format("{}: it has {}, expected {} ({}); {}", formats::ShownPath(name),
                                  formats::ExactBytes(digest.bytes),
                                  formats::ExactBytes(*expected.bytes), expected.record, kAdvice));
  }
  if (!expected.sha256.empty() && digest.sha256 != expected.sha256) {
    return WrongDigest(name, expected, "SHA-256", digest.sha256, expected.sha256);
  }
  if (!expected.git_blob_sha1.empty() && digest.git_blob_sha1 != expected.git_blob_sha1) {
    return WrongDigest(name, expected, "git blob SHA-1", digest.git_blob_sha1,
                       expected.git_blob_sha1);
  }
  if (!expected.pointer_sha1.empty()) {
    const std::string found = OfThePointer(digest);
    if (found != expected.pointer_sha1) {
      return WrongDigest(name, expected, "git-lfs pointer's blob SHA-1", found,
                         expected.pointer_sha1);
    }
  }
  return std::nullopt;
}

bool KnowsWhole(const ExpectedFile& expected) {
  return !expected.sha256.empty() || !expected.git_blob_sha1.empty() ||
         !expected.pointer_sha1.empty();
}

Finding MissingFile(const std::string& name, const ExpectedFile& expected, const fs::path& path) {
  const std::string dead = formats::DeadLinkProblem(path);
  const bool there = formats::Exists(path);
  return Difference("missing-file", name, "",
                    fmt::format("{}: {} ({} lists it); {}", formats::ShownPath(name),
                                there          ? "it is not a regular file"
                                : dead.empty() ? "there is no such file"
                                               : "it is " + dead,
                                expected.record, kAdvice));
}

Findings ExtraFiles(const ChecksumBasis& basis, const std::vector<DirectoryFile>& listing) {
  Findings findings;
  for (const DirectoryFile& file : listing) {
    if (basis.files.count(file.name) != 0 || basis.lists.count(file.name) != 0) continue;
    std::string what;
    if (file.kind != DirectoryFile::Kind::kFile) {
      what = fmt::format("it is {}, and ", DescribeKind(file.kind));
    }
    // A publisher's lists may be about some files only, and so may the records of a download.
    const bool complete = basis.kind == CheckChecksumsReport::Basis::kManifest ||
                          basis.kind == CheckChecksumsReport::Basis::kPacked;
    const std::string who = basis.kind == CheckChecksumsReport::Basis::kSha256Sums
                                ? std::string("no list of digests names it")
                                : basis.name + " does not list it";
    const std::string_view advice = basis.packed ? "remove it"
                                    : complete   ? "remove it, or make the checksums again"
                                                 : "compare it with where it came from";
    findings.push_back(Difference("extra-file", file.name, "",
                                  fmt::format("{}: {}{}, so nothing says what it must be; {}",
                                              formats::ShownPath(file.name), what, who, advice)));
    if (!complete) findings.back().severity = formats::Severity::kWarning;
  }
  return findings;
}

bool IsRegular(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

// A file whose tensors are looked at one by one, because the file differs.
struct Suspect {
  std::string name;
  Findings findings;
  FileToDigest read;
  std::vector<const formats::ManifestTensor*> tensors;  // those of read.ranges
};

// The tensors where the manifest says that they lie, or, where the file has another size and a
// header of its own, where that says.
Suspect MakeSuspect(const std::string& name, const fs::path& path, const ExpectedFile& expected,
                    std::uint64_t bytes) {
  Suspect suspect;
  suspect.name = name;
  suspect.read = {name, path, false, false, {}};
  HeaderComparison header = CompareHeader(name, path, expected);
  suspect.findings = std::move(header.findings);
  if (header.header && expected.bytes != bytes) {
    std::map<std::string_view, const formats::ManifestTensor*> known;
    for (const formats::ManifestTensor* tensor : expected.tensors) known[tensor->name] = tensor;
    const std::uint64_t offset = header.header->data_offset;
    for (const TensorEntry& found : header.header->tensors) {
      const auto tensor = known.find(found.name);
      if (tensor == known.end() || tensor->second->dtype != found.dtype ||
          tensor->second->shape != found.shape) {
        continue;
      }
      suspect.read.ranges.push_back({offset + found.offset, offset + found.end()});
      suspect.tensors.push_back(tensor->second);
    }
    return suspect;
  }
  const std::optional<std::vector<DigestRange>> layout = expected.Layout();
  if (!layout) return suspect;
  for (std::size_t i = 0; i < layout->size(); ++i) {
    const formats::ManifestTensor& tensor = *expected.tensors[i];
    if ((*layout)[i].end > bytes) {
      suspect.findings.push_back(Difference(
          "wrong-tensor-digest", name, tensor.name,
          fmt::format("{}: the file ends at byte {}, before the end of tensor {} at byte {}; {}",
                      formats::ShownPath(name), bytes, QuoteForMessage(tensor.name),
                      (*layout)[i].end, kAdvice)));
      continue;
    }
    suspect.read.ranges.push_back((*layout)[i]);
    suspect.tensors.push_back(&tensor);
  }
  return suspect;
}

void CompareTensors(const std::string& name,
                    const std::vector<const formats::ManifestTensor*>& tensors,
                    const FileDigest& digest, Findings& findings) {
  if (digest.error) {
    findings.push_back(Unreadable(name, *digest.error));
    return;
  }
  if (digest.ranges.size() != tensors.size()) {
    findings.push_back(Difference(
        "inconsistent-manifest", name, "",
        fmt::format("{}: the tensors that the manifest lists in this file do not fit into its {} "
                    "bytes; restore the manifest",
                    formats::ShownPath(name), digest.bytes)));
    return;
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (digest.ranges[i] == tensors[i]->xxh3) continue;
    findings.push_back(
        Difference("wrong-tensor-digest", name, tensors[i]->name,
                   fmt::format("{}: the bytes of tensor {} have XXH3-128 {}, expected {}; {}",
                               formats::ShownPath(name), QuoteForMessage(tensors[i]->name),
                               digest.ranges[i], tensors[i]->xxh3, kAdvice)));
  }
}

Finding Unverified(const std::string& name, const ExpectedFile& expected) {
  Finding finding = Difference(
      "unverified-file", name, "",
      fmt::format("{}: {} has no digest of this file, so only {} was checked; compare it with "
                  "where it came from",
                  formats::ShownPath(name), expected.record,
                  expected.bytes ? "its size" : "that it is there"));
  finding.severity = formats::Severity::kWarning;
  return finding;
}

void SortByFile(Findings& findings) {
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.file < b.file; });
}

}  // namespace

std::vector<FileToDigest> FilesToCompare(const ChecksumBasis& basis, const fs::path& directory) {
  std::vector<FileToDigest> files;
  for (const auto& [name, expected] : basis.files) {
    const fs::path path = directory / name;
    if (!IsRegular(path)) continue;
    FileToDigest file{name, path, false, !expected.git_blob_sha1.empty(), {}};
    file.sha256 = !expected.sha256.empty() || !expected.pointer_sha1.empty();
    std::error_code error;
    const std::uint64_t bytes = fs::file_size(path, error);
    const bool right_size = !expected.bytes || (!error && bytes == *expected.bytes);
    if (!right_size) {
      // The size says enough.
      file.sha256 = file.git_blob_sha1 = false;
    } else if (!KnowsWhole(expected)) {
      if (std::optional<std::vector<DigestRange>> layout = expected.Layout()) {
        file.ranges = std::move(*layout);
      }
    }
    files.push_back(std::move(file));
  }
  return files;
}

ChecksumComparison CompareDigests(const ChecksumBasis& basis, const fs::path& directory,
                                  const std::vector<DirectoryFile>& listing,
                                  const DigestsByName& digests, unsigned threads,
                                  ProgressSink& progress, const StopToken& stop) {
  ChecksumComparison comparison;
  Findings& findings = comparison.findings;
  std::vector<Suspect> suspects;
  for (const auto& [name, expected] : basis.files) {
    const fs::path path = directory / name;
    const auto found = digests.find(name);
    if (found == digests.end()) {
      findings.push_back(MissingFile(name, expected, path));
      continue;
    }
    const FileDigest& digest = found->second;
    std::optional<Finding> difference = CompareWhole(name, expected, digest);
    const bool unreadable = digest.error.has_value();
    const bool by_tensors = !KnowsWhole(expected) && !expected.tensors.empty();
    if (difference && !unreadable) {
      if (std::optional<Finding> pointer = PointerFinding(name, path, expected)) {
        findings.push_back(std::move(*pointer));
        continue;
      }
    }
    if (difference) findings.push_back(std::move(*difference));
    if (!difference && by_tensors) {
      Findings of_header = CompareHeader(name, path, expected).findings;
      std::move(of_header.begin(), of_header.end(), std::back_inserter(findings));
      CompareTensors(name, expected.tensors, digest, findings);
    } else if (!difference && !KnowsWhole(expected)) {
      findings.push_back(Unverified(name, expected));
    } else if (difference && !unreadable && HasHeader(name, expected)) {
      suspects.push_back(MakeSuspect(name, path, expected, digest.bytes));
    }
  }

  std::vector<FileToDigest> to_read;
  for (Suspect& suspect : suspects) {
    for (const DigestRange& range : suspect.read.ranges) {
      comparison.bytes_read += range.end - range.begin;
    }
    to_read.push_back(std::move(suspect.read));
  }
  if (!to_read.empty()) progress.OnPhase("finding the tensors that differ", comparison.bytes_read);
  const std::vector<FileDigest> read = DigestFiles(to_read, threads, progress, stop);
  for (std::size_t i = 0; i < suspects.size(); ++i) {
    Findings& own = suspects[i].findings;
    std::move(own.begin(), own.end(), std::back_inserter(findings));
    CompareTensors(suspects[i].name, suspects[i].tensors, read[i], findings);
  }
  Findings extra = ExtraFiles(basis, listing);
  std::move(extra.begin(), extra.end(), std::back_inserter(findings));
  SortByFile(findings);
  return comparison;
}

ChecksumComparison CompareQuickly(const ChecksumBasis& basis, const fs::path& directory,
                                  const std::vector<DirectoryFile>& listing) {
  ChecksumComparison comparison;
  Findings& findings = comparison.findings;
  for (const auto& [name, expected] : basis.files) {
    const fs::path path = directory / name;
    if (!IsRegular(path)) {
      findings.push_back(MissingFile(name, expected, path));
      continue;
    }
    std::error_code error;
    FileDigest size;
    size.bytes = fs::file_size(path, error);
    if (error) size.error = IoError("look at", path.string(), error.value());
    ExpectedFile only_size;
    only_size.bytes = expected.bytes;
    only_size.record = expected.record;
    std::optional<Finding> difference = CompareWhole(name, only_size, size);
    const bool suspicious = difference || (!expected.bytes && HasHeader(name, expected));
    if (suspicious && !size.error) {
      if (std::optional<Finding> pointer = PointerFinding(name, path, expected)) {
        findings.push_back(std::move(*pointer));
        continue;
      }
    }
    if (difference) findings.push_back(std::move(*difference));
    if (size.error) continue;
    if (!HasHeader(name, expected)) continue;
    Findings of_header = CompareHeader(name, path, expected).findings;
    std::move(of_header.begin(), of_header.end(), std::back_inserter(findings));
  }
  Findings extra = ExtraFiles(basis, listing);
  std::move(extra.begin(), extra.end(), std::back_inserter(findings));
  SortByFile(findings);
  return comparison;
}

}  // namespace dsv3::convert
