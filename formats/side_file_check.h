#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "formats/finding.h"

namespace dsv3::formats {

// Whether a text beside the weights (tokenizer, templates, code) is not what its name says, as its
// first and last bytes show: "broken-side-file", a warning to those that copy it. Such are an HTML
// page, an XML document or a git-lfs pointer in place of the file, and a *.json file that is empty,
// holds zeros, or is cut off. config.json, of which its readers say more, is not looked at, nor
// what cannot be opened, nor files that are no texts. `name` is relative to the checkpoint.
std::optional<Finding> FindBrokenSideFile(const std::filesystem::path& path,
                                          const std::string& name);

}  // namespace dsv3::formats
