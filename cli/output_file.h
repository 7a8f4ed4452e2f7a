#pragma once

#include <string>

namespace dsv3::cli {

// Throws Error where the file that --OPTION names could not be written, so that this shows before
// hours of work: kUsage where its directory is not there or it is a directory itself, kIo where
// permissions or the disk do not allow it. Empty: none is named.
void CheckOutputFile(const char* option, const std::string& file);

}  // namespace dsv3::cli
