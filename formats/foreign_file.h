#pragma once

#include <string_view>

namespace dsv3::formats {

// What a file seems to be that was expected to be a safetensors file or a JSON text and is neither,
// told by its first bytes (some hundred are enough), with what to do next: "it is a git-lfs pointer
// instead of ...". Empty when there is no telling.
std::string_view DescribeForeignFile(std::string_view start);

// The same for a file that was expected to be a safetensors file: knows also JSON and other texts,
// pickles and arrays.
std::string_view DescribeNoSafetensors(std::string_view start);

}  // namespace dsv3::formats
