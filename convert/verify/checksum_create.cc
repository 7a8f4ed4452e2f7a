#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <tbb/parallel_for.h>

#include "convert/open/broken_files.h"
#include "convert/open/completeness.h"
#include "convert/open/packed_model.h"
#include "convert/plan/container.h"
#include "convert/verify/checksum.h"
#include "convert/verify/checksum_basis.h"
#include "convert/verify/checksum_compare.h"
#include "convert/verify/checksum_lists.h"
#include "convert/verify/checksum_output.h"
#include "convert/verify/directory_files.h"
#include "convert/verify/unread_lists.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/sha256.h"
#include "formats/io/input_file.h"
#include "formats/json/utf8.h"
#include "formats/left_behind.h"
#include "formats/message_text.h"
#include "formats/sums_file.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// A file of the directory and, for safetensors files, its header or why there is none.
struct CreatedFile {
  DirectoryFile file;
  std::optional<ContainerHeader> header;
  std::optional<Error> header_error;
  FileDigest digest;
};

[[noreturn]] void Refuse(ErrorCode code, const std::string& name, std::string_view problem) {
  throw Error(code, fmt::format("{}: {}", formats::ShownPath(name), problem), {name, ""});
}

void RequireListable(const fs::path& directory, const std::vector<DirectoryFile>& listing) {
  if (listing.empty()) {
    Refuse(ErrorCode::kBadInput, directory.string(),
           "the directory holds no file; give the directory of a model");
  }
  for (const DirectoryFile& file : listing) {
    if (file.kind != DirectoryFile::Kind::kFile) {
      Refuse(ErrorCode::kBadInput, file.name,
             fmt::format("it is {}, which checksums cannot describe; {}", DescribeKind(file.kind),
                         file.kind == DirectoryFile::Kind::kDeadLink
                             ? "download the file again or repair the link, or remove it where it "
                               "does not belong to the checkpoint"
                             : "remove it, or put a file in its place"));
    }
    if (formats::FindInvalidUtf8(file.name) != file.name.size()) {
      Refuse(ErrorCode::kBadInput, file.name,
             "its name is not UTF-8, which a manifest cannot hold; rename the file");
    }
  }
}

// Before hours of reading the others.
void RequireReadable(const std::vector<DirectoryFile>& listing) {
  for (const DirectoryFile& file : listing) formats::InputFile(file.path, file.name);
}

std::vector<CreatedFile> ReadHeaders(std::vector<DirectoryFile> listing) {
  std::vector<CreatedFile> files(listing.size());
  tbb::parallel_for(std::size_t{0}, files.size(), [&](std::size_t i) {
    CreatedFile& created = files[i];
    created.file = std::move(listing[i]);
    const Container* const container = ContainerOf(created.file.name);
    const bool is_record =
        formats::KindOfLeftBehind(created.file.name) == formats::LeftBehindKind::kSystemRecord;
    if (container == nullptr || is_record) return;
    try {
      created.header = container->ReadHeader(created.file.path, created.file.name);
    } catch (const Error& error) {
      created.header_error = error;
    }
  });
  return files;
}

// Weights in another format beside the model's need no header that can be read: their bytes alone
// are recorded.
formats::Findings ForgiveOtherFormats(std::vector<CreatedFile>& files) {
  formats::Findings notes;
  const auto is_other = [](const CreatedFile& created) {
    return formats::KindOfLeftBehind(created.file.name).has_value();
  };
  const bool has_model = std::any_of(files.begin(), files.end(), [&](const CreatedFile& created) {
    return ContainerOf(created.file.name) != nullptr && !is_other(created);
  });
  for (CreatedFile& created : files) {
    if (!has_model || !created.header_error || !is_other(created)) continue;
    notes.push_back({formats::Severity::kWarning, "unreadable-header", created.file.name, "",
                     fmt::format("{}; the digest of the file was made, none of its tensors",
                                 created.header_error->message())});
    created.header_error.reset();
  }
  return notes;
}

void Digest(std::vector<CreatedFile>& files, unsigned threads, ProgressSink& progress,
            const StopToken& stop) {
  std::vector<FileToDigest> to_digest;
  std::uint64_t bytes = 0;
  for (const CreatedFile& created : files) {
    FileToDigest file{created.file.name, created.file.path, true, false, {}};
    if (created.header) {
      const std::uint64_t offset = created.header->data_offset;
      for (const TensorEntry& tensor : created.header->tensors) {
        file.ranges.push_back({offset + tensor.offset, offset + tensor.end()});
      }
    }
    bytes += created.file.bytes;
    to_digest.push_back(std::move(file));
  }
  progress.OnPhase("hashing", bytes);
  std::vector<FileDigest> digests = DigestFiles(to_digest, threads, progress, stop);
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i].digest = std::move(digests[i]);
    if (files[i].digest.error) throw *files[i].digest.error;
  }
}

// The digest of the tensor of each name.
std::map<std::string_view, const std::string*> TensorDigests(const CreatedFile& created) {
  std::map<std::string_view, const std::string*> digests;
  if (!created.header) return digests;
  for (std::size_t i = 0; i < created.header->tensors.size(); ++i) {
    digests[created.header->tensors[i].name] = &created.digest.ranges[i];
  }
  return digests;
}

// Digests as a comparison with `basis` expects them.
DigestsByName ForComparison(const std::vector<CreatedFile>& files, const ChecksumBasis& basis) {
  DigestsByName by_name;
  for (const CreatedFile& created : files) {
    FileDigest digest = created.digest;
    const auto expected = basis.files.find(created.file.name);
    if (expected != basis.files.end() && !expected->second.tensors.empty()) {
      const auto digests = TensorDigests(created);
      digest.ranges.clear();
      for (const formats::ManifestTensor* tensor : expected->second.tensors) {
        const auto found = digests.find(tensor->name);
        digest.ranges.push_back(found == digests.end() ? std::string() : *found->second);
      }
    }
    by_name.emplace(created.file.name, std::move(digest));
  }
  return by_name;
}

// What the earlier manifest records of how files and tensors were made.
class Provenance {
 public:
  explicit Provenance(const formats::Manifest& manifest) : manifest_(manifest) {
    for (const formats::ManifestTensor& tensor : manifest.tensors) {
      tensors_[tensor.name].push_back(&tensor);
    }
  }

  // Whether the recipe made the file as it is.
  bool IsOfRecipe(const formats::ManifestFile& file) const {
    if (manifest_.job.recipe == formats::kNoRecipe) return true;
    const formats::ManifestFile* before = manifest_.FindFile(file.name);
    return before != nullptr && before->by_recipe && before->bytes == file.bytes &&
           (before->sha256.empty() || before->sha256 == file.sha256);
  }

  // Adds rule and sources where the tensor is the one that the recipe made.
  void Describe(formats::ManifestTensor& tensor) const {
    const formats::ManifestTensor* before = Find(tensor);
    if (before == nullptr) return;
    tensor.sha256 = before->sha256;
    tensor.nan_codes = before->nan_codes;
    tensor.rule = before->rule;
    tensor.sources = before->sources;
  }

 private:
  // Rank files hold tensors of one name, and slices of equal bytes may be cut from different
  // places: the one that lay in the same file is meant, otherwise the first that is equal.
  const formats::ManifestTensor* Find(const formats::ManifestTensor& tensor) const {
    const auto found = tensors_.find(tensor.name);
    if (found == tensors_.end()) return nullptr;
    const formats::ManifestTensor* equal = nullptr;
    for (const formats::ManifestTensor* before : found->second) {
      if (before->xxh3 != tensor.xxh3 || before->dtype != tensor.dtype ||
          before->shape != tensor.shape) {
        continue;
      }
      if (before->file == tensor.file) return before;
      if (equal == nullptr) equal = before;
    }
    return equal;
  }

  const formats::Manifest& manifest_;
  std::map<std::string_view, std::vector<const formats::ManifestTensor*>> tensors_;
};

std::string Compose(const std::vector<CreatedFile>& files, const formats::Manifest& before,
                    CreateChecksumsReport& report) {
  const Provenance provenance(before);
  formats::ManifestWriter writer(formats::ManifestJobText(before.job));
  for (const CreatedFile& created : files) {
    formats::ManifestFile file;
    file.name = created.file.name;
    file.bytes = created.digest.bytes;
    file.sha256 = created.digest.sha256;
    if (created.header) file.header_xxh3 = created.header->digest;
    file.by_recipe = provenance.IsOfRecipe(file);
    writer.AddFile(file);
  }
  for (const CreatedFile& created : files) {
    if (!created.header) continue;
    for (std::size_t i = 0; i < created.header->tensors.size(); ++i) {
      const TensorEntry& entry = created.header->tensors[i];
      formats::ManifestTensor tensor;
      tensor.name = entry.name;
      tensor.file = created.file.name;
      tensor.dtype = entry.dtype;
      tensor.shape = entry.shape;
      tensor.xxh3 = created.digest.ranges[i];
      provenance.Describe(tensor);
      writer.AddTensor(tensor);
      ++report.tensors;
    }
  }
  std::string text = writer.Finish();
  report.content_digest = writer.content_digest();
  return text;
}

// `beside` says whether the manifest lies in the model, so that it is one of the files.
std::string ComposeSums(const std::vector<CreatedFile>& files, const std::string& manifest,
                        bool beside) {
  std::map<std::string, std::string> digests;
  if (beside) {
    formats::Sha256 hash;
    hash.Update(std::as_bytes(std::span(manifest)));
    digests.emplace(formats::kManifestName, hash.FinishHex());
  }
  for (const CreatedFile& created : files) {
    digests.emplace(created.file.name, created.digest.sha256);
  }
  std::string text;
  for (const auto& [name, digest] : digests) text += formats::SumsLine(name, digest);
  return text;
}

std::vector<WeightFile> WeightFilesOf(const std::vector<CreatedFile>& files) {
  std::vector<WeightFile> weights;
  for (const CreatedFile& created : files) {
    if (ContainerOf(created.file.name) == nullptr) continue;
    weights.push_back({created.file.name, created.file.bytes,
                       created.header ? created.header->digest : std::string()});
  }
  return weights;
}

// Compares the files with a basis, from the digests that there are.
formats::Findings CompareWith(const ChecksumBasis& basis, const fs::path& directory,
                              const std::vector<DirectoryFile>& listing,
                              const std::vector<CreatedFile>& files, unsigned threads,
                              ProgressSink& progress, const StopToken& stop) {
  formats::Findings findings = basis.findings;
  DigestsByName digests = ForComparison(files, basis);
  // Whatever else the basis lists, the manifest itself in SHA256SUMS, is read for its own sake.
  std::vector<FileToDigest> others;
  for (FileToDigest& file : FilesToCompare(basis, directory)) {
    if (digests.count(file.name) == 0) others.push_back(std::move(file));
  }
  std::vector<FileDigest> read = DigestFiles(others, threads, progress, stop);
  for (std::size_t i = 0; i < others.size(); ++i) {
    digests.emplace(others[i].name, std::move(read[i]));
  }
  ChecksumComparison comparison =
      CompareDigests(basis, directory, listing, digests, threads, progress, stop);
  std::move(comparison.findings.begin(), comparison.findings.end(), std::back_inserter(findings));
  return findings;
}

// Where there are checksums that stay, comparing with them says more of a file that cannot be read.
formats::Findings WithoutBroken(formats::Findings findings) {
  std::erase_if(findings, SaysBroken);
  return findings;
}

}  // namespace

CreateChecksumsReport CreateChecksums(const CreateChecksumsRequest& request,
                                      formats::FileSystem& file_system, ProgressSink& progress,
                                      const StopToken& stop) {
  const fs::path directory = LocateDirectory(request.directory);
  if (IsPackedAlone(directory)) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: this is a packed checkpoint, whose digests are in {}; use "
                            "`dsv3-verify checksum check`",
                            formats::ShownPath(directory), kPackedManifestName));
  }
  CreateChecksumsReport report;
  report.verification.check = "checksum";
  formats::Findings& findings = report.verification.findings;
  std::optional<ChecksumBasis> basis;
  try {
    basis = FindChecksumBasis(directory, {}, false);
  } catch (const Error& error) {
    // There were checksums, and nobody can tell what they said.
    if (error.code() != ErrorCode::kBadInput) throw;
    formats::Finding finding;
    const bool is_list = formats::IsSumsName(fs::path(error.place().file).filename().string());
    finding.kind = is_list ? "unreadable-sums" : "unreadable-manifest";
    finding.file = error.place().file;
    finding.message = error.message();
    findings.push_back(std::move(finding));
  }
  std::vector<DirectoryFile> listing = ListDirectory(directory);
  RequireListable(directory, listing);
  const formats::Findings completeness = JudgeCompleteness(directory);
  const bool has_earlier = HasEarlierChecksums(request, directory);
  const bool compares = (basis || has_earlier) && !request.overwrite;
  RequireComplete(compares ? WithoutBroken(completeness) : completeness, "making checksums");
  std::optional<formats::NewDirectories> made;
  const fs::path output = PrepareChecksumOutput(request, directory, file_system, made);
  std::optional<ChecksumBasis> earlier;
  if (has_earlier) earlier = FindChecksumBasis(directory, output / formats::kManifestName, false);
  const formats::Findings& of_basis = basis ? basis->findings : findings;
  report.list_unreadable =
      std::any_of(of_basis.begin(), of_basis.end(), [](const formats::Finding& finding) {
        return finding.kind.starts_with("unreadable-") || finding.kind == "bad-sums-line";
      });
  // Nothing could come of reading all files.
  if (!basis && report.list_unreadable && !request.overwrite) return report;
  const bool must_read_all = (!basis && !earlier) || request.overwrite;
  if (must_read_all) RequireReadable(listing);
  std::vector<CreatedFile> files = ReadHeaders(listing);
  formats::Findings notes = ForgiveOtherFormats(files);
  bool replaces_others = false;
  if (earlier && IsOfOtherWeights(earlier->manifest, WeightFilesOf(files))) {
    if (!request.overwrite) RefuseOtherWeights(output, directory);
    replaces_others = true;
    earlier.reset();
  }
  const auto broken = std::find_if(files.begin(), files.end(), [](const CreatedFile& created) {
    return created.header_error.has_value();
  });
  if (broken != files.end() && must_read_all) throw *broken->header_error;
  Digest(files, request.threads, progress, stop);
  for (const CreatedFile& created : files) {
    report.verification.files.push_back(created.file.name);
    report.bytes += created.digest.bytes;
  }
  report.files = files.size();

  if (basis) {
    findings = CompareWith(*basis, directory, listing, files, request.threads, progress, stop);
  }
  if (earlier) {
    formats::Findings more =
        CompareWith(*earlier, directory, listing, files, request.threads, progress, stop);
    std::move(more.begin(), more.end(), std::back_inserter(findings));
  }
  report.replaced = replaces_others || !report.verification.Passes(false);
  AddUnlessKnown(completeness, findings);
  std::move(notes.begin(), notes.end(), std::back_inserter(findings));
  if (!basis && !earlier) WarnOfUnreadList(listing, findings);
  if (!report.verification.Passes(false) && !request.overwrite) return report;

  formats::Manifest before;
  for (std::optional<ChecksumBasis>* known : {&earlier, &basis}) {
    if (*known && (*known)->kind == CheckChecksumsReport::Basis::kManifest) {
      before = std::move((*known)->manifest);
    }
  }
  report.kept_provenance = before.job.recipe != formats::kNoRecipe;
  const std::string manifest = Compose(files, before, report);
  WriteWhereNew(file_system, output / formats::kManifestName, manifest);
  WriteWhereNew(file_system, output / formats::kSumsName,
                ComposeSums(files, manifest, output == directory));
  report.output = output;
  report.written = true;
  return report;
}

}  // namespace dsv3::convert
