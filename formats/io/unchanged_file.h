#pragma once

#include <cstdint>
#include <string>

#include "formats/io/input_file.h"

namespace dsv3::formats {

// Throws Error (kBadInput) unless the open file has the size and the time of its last change that
// it had when the checkpoint was opened. `tensor` (may be empty) is what is read of it.
void RequireUnchanged(const InputFile& file, std::uint64_t bytes, std::int64_t mtime_ns,
                      const std::string& tensor);

}  // namespace dsv3::formats
