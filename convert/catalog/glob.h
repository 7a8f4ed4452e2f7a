#pragma once

#include <string>
#include <string_view>

namespace dsv3::convert {

// Whether the whole name matches the shell pattern: * is any characters, dots and slashes too, ? is
// one, [a-z] is one of a set, and a backslash takes the next character as it is.
bool MatchesGlob(const std::string& glob, const std::string& name);

// Whether the text has a character that is special in a glob.
bool HasGlobCharacters(std::string_view text);

}  // namespace dsv3::convert
