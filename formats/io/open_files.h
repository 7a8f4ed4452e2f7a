#pragma once

#include <cstddef>

namespace dsv3::formats {

// How many file descriptors files may take that are kept open together: what the process may have,
// less some for everything else. Raises the process's soft limit to its hard one. At least 8.
std::size_t OpenFileBudget();

}  // namespace dsv3::formats
