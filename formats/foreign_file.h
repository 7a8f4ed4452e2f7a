#pragma once

#include <string_view>

namespace dsv3::formats {

// Describes a file, by its first bytes, that a failed download left in place of any other: a
// git-lfs pointer, an HTML page, an XML document. Empty for others.
std::string_view DescribeFailedDownload(std::string_view start);

// Describes a file that was expected to be a safetensors file or a JSON text and is neither, judged
// by its first bytes (some hundred are enough), and says what to do next: "it is a git-lfs pointer
// instead of ...". Empty when the bytes are not recognised.
std::string_view DescribeForeignFile(std::string_view start);

// The same for a file that was expected to be a safetensors file: it also recognises JSON and other
// texts, pickles, arrays and archives.
std::string_view DescribeNoSafetensors(std::string_view start);

}  // namespace dsv3::formats
