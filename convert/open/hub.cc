#include "convert/open/hub.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <sys/stat.h>

#include "convert/open/hub_tree.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxRecordBytes = 4096;
constexpr std::uint64_t kMaxTreeBytes = std::uint64_t{64} << 20;
constexpr std::string_view kDownloads = ".cache/huggingface/download";
constexpr std::string_view kRecordEnd = ".metadata";

formats::Finding BadRecord(const std::string& record, std::string message) {
  return {.severity = formats::Severity::kWarning,
          .kind = "bad-hub-record",
          .file = record,
          .tensor = {},
          .message = std::move(message),
          .unreadable = false};
}

// Relative names of all entries below `directory` but directories, sorted; none where it is not
// there.
std::vector<std::string> NamesBelow(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::is_directory(directory, error)) return names;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->symlink_status(ignored).type() == fs::file_type::directory) continue;
    names.push_back(entry->path().lexically_relative(directory).generic_string());
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(names.begin(), names.end());
  return names;
}

// Sets the digest that an ETag gives, normalised as huggingface_hub does; none for other forms.
void SetDigest(std::string_view etag, HubFile& file) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  while (etag.starts_with('"')) etag.remove_prefix(1);
  while (etag.ends_with('"')) etag.remove_suffix(1);
  if (IsLowerHex(etag, 64)) file.sha256 = etag;
  if (IsLowerHex(etag, 40)) file.git_blob_sha1 = etag;
}

// Fills in the digests that the tree has, and prefers them where a digest turns out to be a Xet
// hash.
void MergeTree(const HubTreeEntry& entry, HubFile& file) {
  const bool is_xet = !file.sha256.empty() && file.sha256 == entry.xet_hash;
  if (is_xet) file.sha256.clear();
  const bool unknown = file.sha256.empty() && file.git_blob_sha1.empty();
  if (unknown) {
    file.sha256 = entry.file.sha256;
    file.git_blob_sha1 = entry.file.git_blob_sha1;
    file.pointer_sha1 = entry.file.pointer_sha1;
    file.record = entry.file.record;
  }
  const bool same =
      file.sha256 == entry.file.sha256 && file.git_blob_sha1 == entry.file.git_blob_sha1;
  if (unknown || same) file.bytes = entry.file.bytes;
}

// .cache/huggingface/download/NAME.metadata: three lines, the commit, the ETag, and the time at
// which they were right, in seconds.
struct DownloadRecord {
  std::string commit;
  double timestamp = 0;
  HubFile file;
};

std::optional<DownloadRecord> ParseRecord(std::string_view text) {
  const auto line = [&] {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view one = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!one.empty() && (one.back() == '\r' || one.back() == ' ')) one.remove_suffix(1);
    while (one.starts_with(' ')) one.remove_prefix(1);
    return one;
  };
  DownloadRecord record;
  record.commit = line();
  SetDigest(line(), record.file);
  const std::string_view time = line();
  const auto [end, error] =
      std::from_chars(time.data(), time.data() + time.size(), record.timestamp);
  if (error != std::errc() || end != time.data() + time.size()) return std::nullopt;
  return record;
}

// As huggingface_hub judges: times on disk may be a second off.
bool IsOutdated(const fs::path& path, double timestamp) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) return false;
  const double mtime = static_cast<double>(status.st_mtim.tv_sec) +
                       static_cast<double>(status.st_mtim.tv_nsec) * 1e-9;
  return !(mtime - 1 <= timestamp);
}

class RecordReader {
 public:
  explicit RecordReader(const fs::path& directory) : directory_(directory) {}

  std::optional<HubRecords> Read() {
    if (!ReadSnapshot()) ReadLocal();
    if (records_.files.empty()) return std::nullopt;
    for (const std::string& kind : kinds_) {
      if (!records_.description.empty()) records_.description += ", ";
      records_.description += kind;
    }
    return std::move(records_);
  }

 private:
  // Of REPO/trees or .cache/huggingface/trees; nothing when it is not there or cannot be used.
  std::optional<HubTree> ReadTree(const fs::path& trees, const std::string& commit) {
    if (commit.empty() || !IsLowerHex(commit, commit.size())) return std::nullopt;
    const std::string name = commit + ".json";
    const fs::path path = trees / name;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) return std::nullopt;
    const std::string record = "trees/" + name;
    try {
      HubTree tree = ParseHubTree(formats::ReadSmallFile(path, kMaxTreeBytes), record);
      kinds_.insert(record);
      return tree;
    } catch (const Error& problem) {
      if (problem.code() == ErrorCode::kIo) throw;
      records_.findings.push_back(BadRecord(record, problem.message()));
      return std::nullopt;
    }
  }

  void AddFromTree(const HubTree& tree) {
    for (const auto& [name, entry] : tree) {
      const auto [file, is_new] = records_.files.emplace(name, entry.file);
      if (!is_new) MergeTree(entry, file->second);
    }
  }

  // models--org--name/snapshots/COMMIT, whose files are symlinks to ../../blobs/ETAG. Only the
  // first link gives the ETag: a blob may itself be a link into a store that is named by Xet
  // hashes.
  bool ReadSnapshot() {
    const fs::path snapshots = directory_.parent_path();
    const fs::path repository = snapshots.parent_path();
    std::error_code error;
    if (snapshots.filename() != "snapshots" || (!fs::is_directory(repository / "blobs", error) &&
                                                !fs::is_directory(repository / "trees", error))) {
      return false;
    }
    for (const std::string& name : NamesBelow(directory_)) {
      const fs::path path = directory_ / name;
      if (!fs::is_symlink(fs::symlink_status(path, error))) continue;
      const fs::path target =
          (path.parent_path() / fs::read_symlink(path, error)).lexically_normal();
      if (error || target.parent_path() != repository / "blobs") continue;
      HubFile file;
      file.record = "the name of its blob";
      SetDigest(target.filename().string(), file);
      records_.files.emplace(name, std::move(file));
      kinds_.insert("names of blobs in the hub cache");
    }
    if (const auto tree = ReadTree(repository / "trees", directory_.filename().string())) {
      AddFromTree(*tree);
    }
    return true;
  }

  void ReadLocal() {
    const fs::path downloads = directory_ / kDownloads;
    const fs::path trees = directory_ / ".cache/huggingface/trees";
    std::map<std::string, std::string> commits;  // file → commit
    std::string newest;
    double newest_time = 0;
    for (const std::string& record_name : NamesBelow(downloads)) {
      if (!record_name.ends_with(kRecordEnd)) continue;
      const std::string name = record_name.substr(0, record_name.size() - kRecordEnd.size());
      std::optional<DownloadRecord> record = ReadRecord(downloads / record_name);
      if (name.empty() || name.ends_with('/') || !record) continue;
      record->file.outdated = IsOutdated(directory_ / name, record->timestamp);
      record->file.record = fmt::format("{}/{}", kDownloads, record_name);
      if (newest.empty() || record->timestamp > newest_time) {
        newest = record->commit;
        newest_time = record->timestamp;
      }
      commits[name] = record->commit;
      records_.files.emplace(name, std::move(record->file));
      kinds_.insert(fmt::format("{}/*{}", kDownloads, kRecordEnd));
    }
    AddLocalTrees(trees, commits, newest);
  }

  // The tree of the newest download says which files there are. Other trees are used only for the
  // files that were downloaded from their commits.
  void AddLocalTrees(const fs::path& trees, const std::map<std::string, std::string>& commits,
                     std::string newest) {
    if (commits.empty()) {
      const std::vector<std::string> names = NamesBelow(trees);
      if (names.size() == 1 && names[0].ends_with(".json")) {
        newest = names[0].substr(0, names[0].size() - 5);
      }
    }
    std::set<std::string> others;
    for (const auto& [name, commit] : commits) {
      if (commit != newest) others.insert(commit);
    }
    for (const std::string& commit : others) {
      const std::optional<HubTree> tree = ReadTree(trees, commit);
      if (!tree) continue;
      for (const auto& [name, of] : commits) {
        const auto entry = tree->find(name);
        if (of == commit && entry != tree->end()) {
          MergeTree(entry->second, records_.files.at(name));
        }
      }
    }
    const std::optional<HubTree> tree = ReadTree(trees, newest);
    if (!tree) return;
    for (const auto& [name, entry] : *tree) {
      const auto commit = commits.find(name);
      if (commit == commits.end()) {
        records_.files.emplace(name, entry.file);
      } else if (commit->second == newest) {
        MergeTree(entry, records_.files.at(name));
      }
    }
  }

  std::optional<DownloadRecord> ReadRecord(const fs::path& path) {
    const std::string name = path.lexically_relative(directory_).generic_string();
    try {
      if (auto record = ParseRecord(formats::ReadSmallFile(path, kMaxRecordBytes))) return record;
      records_.findings.push_back(
          BadRecord(name, fmt::format("{}: this record of a download is not a commit, an ETag and "
                                      "a time, so it is not used; download the file again",
                                      formats::ShownPath(name))));
    } catch (const Error& problem) {
      if (problem.code() == ErrorCode::kIo) throw;
      records_.findings.push_back(BadRecord(name, problem.message()));
    }
    return std::nullopt;
  }

  fs::path directory_;
  HubRecords records_;
  std::set<std::string> kinds_;
};

constexpr std::string_view kPointerBegin =
    "version https://git-lfs.github.com/spec/v1\noid sha256:";
constexpr std::string_view kPointerSize = "\nsize ";

}  // namespace

std::optional<HubRecords> ReadHubRecords(const fs::path& directory) {
  return RecordReader(directory).Read();
}

std::optional<LfsPointer> ParseLfsPointer(std::string_view text) {
  if (!text.starts_with(kPointerBegin)) return std::nullopt;
  text.remove_prefix(kPointerBegin.size());
  LfsPointer pointer;
  pointer.sha256 = text.substr(0, 64);
  if (!IsLowerHex(pointer.sha256, 64)) return std::nullopt;
  text.remove_prefix(64);
  if (!text.starts_with(kPointerSize)) return std::nullopt;
  text.remove_prefix(kPointerSize.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pointer.bytes);
  if (error != std::errc()) return std::nullopt;
  const std::string_view rest = text.substr(static_cast<std::size_t>(end - text.data()));
  if (!rest.empty() && rest != "\n" && rest != "\r\n") return std::nullopt;
  return pointer;
}

std::string LfsPointerText(const LfsPointer& pointer) {
  return fmt::format("{}{}{}{}\n", kPointerBegin, pointer.sha256, kPointerSize, pointer.bytes);
}

}  // namespace dsv3::convert
