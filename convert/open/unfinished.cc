#include "convert/open/unfinished.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "convert/packing/packed_manifest.h"
#include "formats/checkpoint_location.h"
#include "formats/download_mark.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/job_journal.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"
#include "formats/require_no_errors.h"
#include "formats/shard_index.h"
#include "formats/sums_file.h"
#include "formats/unfinished_job.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Finding;
using formats::Findings;
using formats::Severity;

constexpr const char* kConversionKind = "unfinished-conversion";
constexpr std::string_view kHubDownloads = ".cache/huggingface/download";
constexpr std::string_view kIncomplete = ".incomplete";

Finding Note(Severity severity, std::string_view kind, const std::string& file,
             const std::string& message) {
  Finding finding;
  finding.severity = severity;
  finding.kind = kind;
  finding.file = file;
  finding.message = message;
  return finding;
}

// The finding about the journals of a directory.
Finding OfJournals(const fs::path& directory, const formats::JobProgress& job) {
  // The manifest or packed.json is the last file: only the journals are left to remove.
  const bool whole =
      job.completed == job.files && (formats::EntryExists(directory / formats::kManifestName) ||
                                     formats::EntryExists(directory / kPackedManifestName));
  return Note(whole ? Severity::kWarning : Severity::kError, kConversionKind, job.journal,
              fmt::format("{}: {}", job.journal, formats::DescribeUnfinishedJob(job, directory)));
}

// Whether `checksum create` or `sign` left this file when it was killed; they replace it when they
// run again.
bool IsOfChecksums(std::string_view name) {
  constexpr std::array<std::string_view, 3> kNames = {formats::kSumsName, formats::kManifestName,
                                                      "model.sig"};
  constexpr std::string_view kPartial = ".partial";
  if (!name.ends_with(kPartial)) return false;
  name.remove_suffix(kPartial.size());
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Finding OfDownload(const std::string& name, const fs::path& path, std::string_view advice) {
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(path, error);
  return Note(
      Severity::kWarning, kUnfinishedDownload, name,
      fmt::format("{}: a download is under way or was interrupted: it keeps this file "
                  "({}) until a file is complete; wait for it, or {}; if it was given up "
                  "and nothing is missing, remove this file",
                  formats::ShownPath(name), formats::ExactBytes(error ? 0 : bytes), advice));
}

// Names that matter within a directory, in any order.
class Lister {
 public:
  explicit Lister(const fs::path& directory) : directory_(directory) {}

  Findings List() {
    job_ = formats::ReadJobProgress(directory_);
    if (job_) findings_.push_back(OfJournals(directory_, *job_));
    for (const std::string& name : formats::ListCheckpoint(directory_, true).leftovers) {
      AddLeftover(name);
    }
    AddDownloads(directory_);
    if (const fs::path of_hub = directory_ / kHubDownloads; IsDirectory(of_hub)) {
      AddDownloads(of_hub);
    }
    AddBlobs();
    std::stable_sort(findings_.begin(), findings_.end(),
                     [](const Finding& a, const Finding& b) { return a.file < b.file; });
    return std::move(findings_);
  }

 private:
  static bool IsDirectory(const fs::path& path) {
    std::error_code error;
    return fs::is_directory(path, error);
  }

  // Of what lies below `root`; git's and the caches' own folders are not entered.
  void AddDownloads(const fs::path& root) {
    std::error_code error;
    fs::recursive_directory_iterator entry(root, error);
    for (const fs::recursive_directory_iterator end; !error && entry != end;
         entry.increment(error)) {
      const std::string base = entry->path().filename().string();
      std::error_code ignored;
      if (entry->symlink_status(ignored).type() == fs::file_type::directory) {
        if (base == ".git" || base == ".cache") entry.disable_recursion_pending();
        continue;
      }
      const std::string name = entry->path().lexically_relative(directory_).generic_string();
      if (const std::string_view advice = formats::HowDownloadGoesOn(name); !advice.empty()) {
        findings_.push_back(OfDownload(name, entry->path(), advice));
      }
    }
    if (error) throw IoError("list", root.string(), error.value());
  }

  void AddLeftover(const std::string& name) {
    // The journal's finding already covers the job's files.
    if (job_ || IsOfChecksums(name) || !formats::HowDownloadGoesOn(name).empty()) return;
    const bool maybe_whole = formats::EntryExists(directory_ / formats::kShardIndexName) ||
                             formats::EntryExists(directory_ / formats::kRankLayoutName) ||
                             formats::EntryExists(directory_ / formats::kManifestName) ||
                             formats::EntryExists(directory_ / kPackedManifestName);
    const bool is_own = fs::path(name).filename().string().starts_with(".dsv3-");
    findings_.push_back(
        Note(is_own && !maybe_whole ? Severity::kError : Severity::kWarning, kConversionKind, name,
             fmt::format("{}: an unfinished conversion left this file; run the same command again "
                         "to finish it, or remove the file",
                         formats::ShownPath(name))));
  }

  // REPOSITORY/snapshots/COMMIT: downloads go to REPOSITORY/blobs.
  void AddBlobs() {
    std::error_code error;
    const fs::path snapshots = fs::canonical(directory_, error).parent_path();
    if (snapshots.filename() != "snapshots") return;
    const fs::path blobs = snapshots.parent_path() / "blobs";
    if (!IsDirectory(blobs)) return;
    for (fs::directory_iterator entry(blobs, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string base = entry->path().filename().string();
      if (!base.ends_with(kIncomplete)) continue;
      findings_.push_back(
          OfDownload("../../blobs/" + base, entry->path(), formats::HowDownloadGoesOn(base)));
    }
    if (error) throw IoError("list", blobs.string(), error.value());
  }

  const fs::path directory_;
  std::optional<formats::JobProgress> job_;
  Findings findings_;
};

}  // namespace

Findings FindUnfinished(const fs::path& directory) { return Lister(directory).List(); }

bool HasUnfinishedConversion(const Findings& findings) {
  return std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.kind == kConversionKind && finding.severity == Severity::kError;
  });
}

void RefuseUnfinishedConversion(const fs::path& input) {
  std::error_code error;
  if (!fs::is_directory(input, error)) return;
  Findings findings = FindUnfinished(fs::absolute(input).lexically_normal());
  std::erase_if(findings, [](const Finding& finding) { return finding.kind != kConversionKind; });
  formats::RequireNoErrors(findings, {"file of it", "files of it"});
}

}  // namespace dsv3::convert
