#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "formats/finding.h"

namespace dsv3::formats {

// Texts beside the weights (tokenizer, templates, code) that are not what their names say, as their
// first and last bytes show; warnings "broken-side-file". These are an HTML page, an XML document
// or a git-lfs pointer in place of the file, and *.json files that are empty, hold zeros, or are
// cut off. config.json, of which its readers say more, is not looked at, nor what cannot be opened.
// `names` are relative to `directory`.
Findings FindBrokenSideFiles(const std::filesystem::path& directory,
                             const std::vector<std::string>& names);

}  // namespace dsv3::formats
