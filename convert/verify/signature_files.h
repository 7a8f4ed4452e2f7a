#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

// Which files of a model a signature covers; an internal part of signature.h.
namespace dsv3::convert {

// Paths relative to the model that are left out, each with all that is below it.
using IgnoredPaths = std::set<std::string>;

// Whether `name` is one of `ignored` or lies below one.
bool IsIgnored(std::string_view name, const IgnoredPaths& ignored);

struct ModelFile {
  std::string name;  // relative to the directory, '/' between components; "." for a single file
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  bool is_link = false;  // a symbolic link to a regular file
};

// An entry that has a name and is not a file that can be signed.
struct ModelOddity {
  std::string name;
  std::string_view what;  // "a symbolic link that leads nowhere"
};

struct ModelListing {
  std::filesystem::path directory;  // absolute; of a single file, the one that holds it
  std::string subject;              // the model's name: the last part of its path
  bool single_file = false;
  std::vector<ModelFile> files;  // component by component, see formats::ComponentsLess
  std::vector<ModelOddity> oddities;
};

// Lists the files of a model, which is a directory, a hub cache "models--org--name" or a single
// file; `ignored` counts for directories only. Symbolic links to directories are not followed.
// Throws Error: kBadInput for a path that does not exist, kIo.
ModelListing ListModel(const std::filesystem::path& model, const IgnoredPaths& ignored);

}  // namespace dsv3::convert
