#pragma once

#include <string>

namespace dsv3::cli {

inline constexpr const char* kVersion = DSV3_VERSION;
inline constexpr const char* kReleaseDate = "November 22, 2026";  // as mdoc(7) writes dates

// The text that --version prints: "TOOL VERSION", then a line about this build and this machine.
std::string VersionText(const std::string& tool);

}  // namespace dsv3::cli
