#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "formats/finding.h"

namespace dsv3::formats {

inline constexpr std::string_view kUnreadableSideFile = "unreadable-side-file";

// Whether a file beside the weights (tokenizer, templates, code) cannot be read, for want of a
// permission or because the disk fails: kUnreadableSideFile; or is a text that is not what its name
// says, as its first and last bytes show: "broken-side-file". Both are warnings to those that copy
// it. Such texts are an HTML page, an XML document or a git-lfs pointer in place of the file, and a
// *.json file that is empty, holds zeros, or is cut off. config.json, of which its readers say
// more, is not looked at, nor is what is not there or no file. `name` is relative to the
// checkpoint.
std::optional<Finding> FindBrokenSideFile(const std::filesystem::path& path,
                                          const std::string& name);

}  // namespace dsv3::formats
