#pragma once

#include <string>
#include <vector>

#include "convert/job/source_deletion.h"

namespace dsv3::cli {

// "4 files (4.5 MB) and 2 links": what goes of the source.
std::string DeletionTotal(const std::vector<convert::SourceDeletion>& deletions);

// What goes and what stays, a line for each pair of directories, with real paths. The last line
// counts what is too much to be listed.
std::vector<std::string> DeletionLines(const std::vector<convert::SourceDeletion>& deletions);

}  // namespace dsv3::cli
