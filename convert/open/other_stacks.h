#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

// Checkpoints of training stacks that are recognised by the names of their files, and not read.
namespace dsv3::convert {

// What a file is by its name, and what to do; empty for a file of no such stack.
std::string DescribeOtherFile(std::string_view name);

// The same of a directory with the entries `names`, sorted. Looks into a few of its directories.
std::string DescribeOtherDirectory(const std::filesystem::path& directory,
                                   const std::vector<std::string>& names);

}  // namespace dsv3::convert
