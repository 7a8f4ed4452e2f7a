#pragma once

#include <string>

namespace dsv3::cli {

// Throws Error (kUsage) where the file that --OPTION names could not be written because its
// directory is not there, so that this shows before hours of work. Empty: none is named.
void CheckOutputFile(const char* option, const std::string& file);

}  // namespace dsv3::cli
