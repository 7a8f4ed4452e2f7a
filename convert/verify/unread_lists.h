#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/verify/directory_files.h"
#include "formats/finding.h"

// Lists of digests that are there and are not read; an internal part of checksum.h.
namespace dsv3::convert {

// A file that seems to hold digests of the others, by its name or because it says one on a line
// with the name of a file, but none of SHA-256 that can be read.
struct UnreadList {
  std::string name;  // relative to the directory
  std::string kind;  // "MD5" where the name says so, else empty
};
// The first of them in the listing; nothing where there is none.
std::optional<UnreadList> FindUnreadList(const std::vector<DirectoryFile>& listing);

// Adds a warning ("unread-sums") that names it.
void WarnOfUnreadList(const std::vector<DirectoryFile>& listing, formats::Findings& findings);

}  // namespace dsv3::convert
