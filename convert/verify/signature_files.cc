#include "convert/verify/signature_files.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/signature_statement.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

std::string_view DescribeOddity(const fs::directory_entry& entry, bool is_link) {
  std::error_code error;
  if (is_link) {
    return fs::is_directory(entry.path(), error) ? "a symbolic link to a directory"
           : formats::Exists(entry.path())       ? "a symbolic link to no regular file"
                                                 : "a symbolic link that leads nowhere";
  }
  return "no regular file";
}

void AddEntry(const fs::directory_entry& entry, std::string name, bool is_link,
              ModelListing& listing) {
  std::error_code error;
  if (!entry.is_regular_file(error)) {
    listing.oddities.push_back({std::move(name), DescribeOddity(entry, is_link)});
    return;
  }
  const std::uint64_t bytes = fs::file_size(entry.path(), error);
  if (error) throw IoError("look at", entry.path().string(), error.value());
  listing.files.push_back({std::move(name), entry.path(), bytes, is_link});
}

}  // namespace

bool IsIgnored(std::string_view name, const IgnoredPaths& ignored) {
  return std::any_of(ignored.begin(), ignored.end(), [&](const std::string& path) {
    return name == path ||
           (name.size() > path.size() && name.starts_with(path) && name[path.size()] == '/');
  });
}

ModelListing ListModel(const fs::path& model, const IgnoredPaths& ignored) {
  const formats::CheckpointLocation location = formats::LocateCheckpoint(model);
  ModelListing listing;
  listing.directory = location.directory;
  if (location.file_name) {
    const fs::path path = location.directory / *location.file_name;
    listing.single_file = true;
    listing.subject = *location.file_name;
    AddEntry(fs::directory_entry(path), ".", fs::is_symlink(fs::symlink_status(path)), listing);
    return listing;
  }
  listing.subject = location.directory.filename().string();
  if (listing.subject.empty()) listing.subject = "model";
  std::error_code error;
  fs::recursive_directory_iterator entry(location.directory, error);
  for (const fs::recursive_directory_iterator end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().lexically_relative(location.directory).generic_string();
    std::error_code unknown;
    const bool is_link = entry->is_symlink(unknown);
    const bool is_directory = !is_link && entry->is_directory(unknown);
    if (IsIgnored(name, ignored)) {
      if (is_directory) entry.disable_recursion_pending();
    } else if (!is_directory) {
      AddEntry(*entry, std::move(name), is_link, listing);
    }
  }
  if (error) throw IoError("list", location.directory.string(), error.value());
  std::sort(listing.files.begin(), listing.files.end(), [](const ModelFile& a, const ModelFile& b) {
    return formats::ComponentsLess(a.name, b.name);
  });
  std::sort(listing.oddities.begin(), listing.oddities.end(),
            [](const ModelOddity& a, const ModelOddity& b) { return a.name < b.name; });
  return listing;
}

}  // namespace dsv3::convert
