#pragma once

#include <array>
#include <string>

namespace dsv3::convert {

// The printable character by which byte-level BPE writes a byte, in UTF-8: itself where it is
// printable Latin-1 and no space, otherwise the next unused one from U+0100 on.
std::array<std::string, 256> ByteCharacters();

}  // namespace dsv3::convert
