#include "convert/recipes/byte_characters.h"

#include "formats/json/utf8.h"

namespace dsv3::convert {

std::array<std::string, 256> ByteCharacters() {
  std::array<std::string, 256> characters;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    formats::AppendUtf8(characters[byte], printable ? byte : next++);
  }
  return characters;
}

}  // namespace dsv3::convert
