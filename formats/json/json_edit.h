#pragma once

#include <optional>
#include <string>
#include <string_view>

// Edits of a JSON text that leave every other byte as it is: order, spacing and the spelling of
// numbers survive. Used for config.json, so NaN, Infinity and -Infinity are values, as Python
// writes them.
namespace dsv3::formats {

// Text of the value of top-level (or nested, "text_config/quantization_config") member `path`, as
// `text` spells it; nothing when there is none. Throws Error (kBadInput) when `text` is not strict
// JSON or holds the member twice; `file` is the name for errors.
std::optional<std::string> JsonMember(std::string_view text, std::string_view path,
                                      const std::string& file);

// Removes the member, with its comma and the white space that belonged to it. Unchanged when there
// is none.
std::string RemoveJsonMember(std::string_view text, std::string_view path, const std::string& file);

// Replaces the value of an existing member by `value`, a JSON text. Unchanged when there is none.
std::string ReplaceJsonMember(std::string_view text, std::string_view path, std::string_view value,
                              const std::string& file);

// Adds member `key` with `value`, a JSON text, at the end of the top-level object, on a line of its
// own where the text has one member a line. The object must not have the member.
std::string AppendJsonMember(std::string_view text, std::string_view key, std::string_view value,
                             const std::string& file);

}  // namespace dsv3::formats
