#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace dsv3::testing {

// What `value` has against a JSON Schema, one complaint a line; empty when it conforms. Knows type,
// enum, minimum, pattern, properties, required, additionalProperties: false and items, which is
// what docs/schemas uses, and complains of any other keyword.
std::string SchemaComplaints(const nlohmann::json& schema, const nlohmann::json& value,
                             const std::string& place = "$");

}  // namespace dsv3::testing
