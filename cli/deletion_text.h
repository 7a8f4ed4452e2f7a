#pragma once

#include <string>
#include <vector>

#include "convert/job/source_deletion.h"

namespace dsv3::cli {

// "4 files (4.5 MB) and 2 links": the part of the source that is deleted.
std::string DeletionTotal(const std::vector<convert::SourceDeletion>& deletions);

// The files that are deleted and the files that stay, a line for each pair of directories, with
// real paths. The last line counts the lines that are too many to be listed.
std::vector<std::string> DeletionLines(const std::vector<convert::SourceDeletion>& deletions);

}  // namespace dsv3::cli
