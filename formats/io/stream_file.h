#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "formats/io/input_file.h"

namespace dsv3::formats {

// Reads a whole file in order and calls `visit` for each part, of 4 MiB at most. An exception of
// `visit` ends the reading. Throws Error (kIo, kBadInput) as InputFile::ReadStreaming does.
void StreamFile(const InputFile& input,
                const std::function<void(std::span<const std::byte> part)>& visit);

}  // namespace dsv3::formats
