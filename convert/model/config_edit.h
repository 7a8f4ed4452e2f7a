#pragma once

#include <string>

namespace dsv3::convert {

// Puts a member into a config, over the one of the same path if there is one. A missing parent
// object is an error (kBadInput).
std::string SetConfigMember(const std::string& config_text, const std::string& member,
                            const std::string& json);

}  // namespace dsv3::convert
