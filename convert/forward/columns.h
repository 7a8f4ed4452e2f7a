#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

// Some columns of a matrix; an internal part of forward.h.
namespace dsv3::convert {

// Sets `cut` to columns [begin, end) of rows of `cols` columns, and returns its data.
template <typename T>
const T* CutColumns(const T* values, std::size_t rows, std::size_t cols, std::size_t begin,
                    std::size_t end, std::vector<T>& cut) {
  cut.resize(rows * (end - begin));
  for (std::size_t row = 0; row < rows; ++row) {
    std::copy_n(values + row * cols + begin, end - begin, cut.data() + row * (end - begin));
  }
  return cut.data();
}

}  // namespace dsv3::convert
