#pragma once

#include <string_view>

namespace dsv3::formats {

// How a download goes on of which this file is a part or a record: "continue it with the same `hf
// download` command". Downloaders and programs that copy between machines keep such files beside,
// or in place of, what is to come. Empty where the name (relative, '/' between components) is not
// one of theirs.
std::string_view HowDownloadGoesOn(std::string_view relative_name);

}  // namespace dsv3::formats
