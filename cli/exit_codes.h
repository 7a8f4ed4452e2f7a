#pragma once

#include <array>

namespace dsv3::cli {

struct ExitCodeMeaning {
  int code;
  const char* meaning;
};

// Equal in every tool.
inline constexpr std::array<ExitCodeMeaning, 7> kExitCodes = {{
    {0, "Done, also when there was nothing to do."},
    {1, "A verification found differences."},
    {2, "Wrong options, or an output directory that must not be touched."},
    {3, "Bad input: missing, malformed or contradictory."},
    {4,
     "The machine: a failing or full disk, a missing permission, no memory, or a standard "
     "output that cannot be written."},
    {5, "Interrupted. The same command continues."},
    {70, "A bug of the tool. Please report it in the project's issue tracker; see SECURITY.md."},
}};

}  // namespace dsv3::cli
