#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "convert/open/hub.h"

// The hub's listing of a repository at one commit, as downloads leave it behind; an internal part
// of hub.h.
namespace dsv3::convert {

struct HubTreeEntry {
  HubFile file;
  std::string xet_hash;  // 64 hex digits that are not a SHA-256; empty when there is none
};

using HubTree = std::map<std::string, HubTreeEntry>;

// Parses trees/COMMIT.json; `name` is what errors and records call it. Entries whose names lead out
// of the directory are an error. Throws Error (kBadInput) for what is malformed or of another
// format_version.
HubTree ParseHubTree(std::string_view text, const std::string& name);

// Whether `text` is `digits` lowercase hex digits.
bool IsLowerHex(std::string_view text, std::size_t digits);

}  // namespace dsv3::convert
