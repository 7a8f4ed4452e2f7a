#include "convert/catalog/glob.h"

#include <fnmatch.h>

namespace dsv3::convert {

bool MatchesGlob(const std::string& glob, const std::string& name) {
  return ::fnmatch(glob.c_str(), name.c_str(), 0) == 0;
}

bool HasGlobCharacters(std::string_view text) {
  return text.find_first_of("*?[\\") != std::string_view::npos;
}

}  // namespace dsv3::convert
