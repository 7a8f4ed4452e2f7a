#pragma once

#include <cstddef>

namespace dsv3::formats {

// The number of file descriptors for files that are kept open together: the limit of the process,
// less some for everything else. Raises the process's soft limit to its hard one. At least 8.
std::size_t OpenFileBudget();

}  // namespace dsv3::formats
