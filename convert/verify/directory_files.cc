#include "convert/verify/directory_files.h"

#include <algorithm>
#include <array>
#include <system_error>

#include <fmt/format.h>

#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/manifest.h"
#include "formats/message_text.h"
#include "formats/sums_file.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

// By their names relative to the directory.
bool IsLeftOut(std::string_view name) {
  constexpr std::array<std::string_view, 3> kOurs = {formats::kSumsName, formats::kManifestName,
                                                     "model.sig"};
  constexpr std::string_view kPartial = ".partial";
  if (name == ".git" || name == ".cache/huggingface") return true;
  if (name.ends_with(kPartial)) name.remove_suffix(kPartial.size());
  return std::find(kOurs.begin(), kOurs.end(), name) != kOurs.end();
}

DirectoryFile Describe(const fs::directory_entry& entry, std::string name) {
  DirectoryFile file;
  file.name = std::move(name);
  file.path = entry.path();
  std::error_code error;
  const fs::file_status status = entry.status(error);
  switch (status.type()) {
    case fs::file_type::regular:
      file.bytes = fs::file_size(entry.path(), error);
      if (error) file.bytes = 0;
      break;
    case fs::file_type::directory:
      file.kind = DirectoryFile::Kind::kDirectoryLink;
      break;
    case fs::file_type::not_found:
    case fs::file_type::none:
      file.kind = DirectoryFile::Kind::kDeadLink;
      break;
    default:
      file.kind = DirectoryFile::Kind::kSpecial;
  }
  return file;
}

}  // namespace

std::string_view DescribeKind(DirectoryFile::Kind kind) {
  switch (kind) {
    case DirectoryFile::Kind::kFile:
      return "a file";
    case DirectoryFile::Kind::kDeadLink:
      return "a dead link, a symlink that leads nowhere";
    case DirectoryFile::Kind::kDirectoryLink:
      return "a symlink to a directory";
    case DirectoryFile::Kind::kSpecial:
      return "neither a file nor a directory";
  }
  return "";
}

std::vector<DirectoryFile> ListDirectory(const fs::path& directory) {
  std::vector<DirectoryFile> files;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().lexically_relative(directory).generic_string();
    std::error_code ignored;
    const bool is_directory = entry->symlink_status(ignored).type() == fs::file_type::directory;
    if (IsLeftOut(name)) {
      if (is_directory) entry.disable_recursion_pending();
      continue;
    }
    if (!is_directory) files.push_back(Describe(*entry, std::move(name)));
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(files.begin(), files.end(),
            [](const DirectoryFile& a, const DirectoryFile& b) { return a.name < b.name; });
  return files;
}

fs::path LocateDirectory(const fs::path& path) {
  const formats::CheckpointLocation location = formats::LocateCheckpoint(path);
  if (!location.file_name) return location.directory;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: it is a file; give the directory that it lies in, {}",
                          formats::ShownPath(path), formats::ShownPath(location.directory)),
              {path.string(), ""});
}

}  // namespace dsv3::convert
