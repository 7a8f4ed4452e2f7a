#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "convert/model/model_config.h"
#include "formats/error.h"
#include "formats/message_text.h"

// Helpers of the files that parse config.json. This header is not installed, so the JSON library
// stays inside.
namespace dsv3::convert {

// Beyond any model, and small enough that products of two dimensions fit 64 bits.
inline constexpr std::uint64_t kMaxDimension = std::uint64_t{1} << 31;

[[noreturn]] inline void FailConfig(const std::string& file, const std::string& problem) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", formats::ShownPath(file), problem),
              {file, ""});
}

// The value as the config spells it; NaN and infinity as Python does.
inline std::string SpelledValue(const nlohmann::json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  }
  if (!value.is_array()) {
    return value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  }
  std::string text = "[";
  for (const nlohmann::json& item : value) {
    if (text.size() > 1) text += ',';
    text += SpelledValue(item);
  }
  return text + "]";
}

inline std::string ShownInMessage(const nlohmann::json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = SpelledValue(value);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

// Parses the text of a config, an object, which may hold NaN, Infinity and -Infinity as Python
// writes them. Throws Error (kBadInput) for what ParseModelConfig says of JSON.
nlohmann::json ParseConfigObject(std::string_view text, const std::string& file);

// Reads the fields of one JSON object. A `strict` reader refuses values that a lenient reader takes
// as absent.
class ConfigFields {
 public:
  using Json = nlohmann::json;

  ConfigFields(const Json& object, std::string file, std::string path, bool strict)
      : object_(object), file_(std::move(file)), path_(std::move(path)), strict_(strict) {}

  const Json* Find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() ? nullptr : &*found;
  }

  // A dimension that every model has. `fallback` points to its value when absent.
  std::uint64_t Dimension(const char* name, const std::uint64_t* fallback) const {
    const Json* value = Find(name);
    if (value == nullptr && fallback != nullptr) return *fallback;
    if (value == nullptr && strict_) {
      FailConfig(file_, fmt::format("lacks the field '{}{}', which this model_type needs; take the "
                                    "config.json that belongs to the weights",
                                    path_, name));
    }
    const std::uint64_t number = value == nullptr ? 0 : Number(name, *value);
    if (number == 0 && strict_) Wrong(name, "a positive integer", *value);
    return number;
  }

  // A count that may be zero or null, both of which mean "none".
  std::uint64_t Count(const char* name, std::uint64_t fallback) const {
    const Json* value = Find(name);
    if (value == nullptr) return fallback;
    return value->is_null() ? 0 : Number(name, *value);
  }

  bool Bool(const char* name, bool fallback) const {
    const Json* value = Find(name);
    if (value == nullptr || value->is_null()) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    if (strict_) Wrong(name, "true or false", *value);
    return fallback;
  }

  std::string String(const char* name) const {
    const Json* value = Find(name);
    if (value == nullptr || value->is_null()) return "";
    if (value->is_string()) return value->get<std::string>();
    if (strict_) Wrong(name, "a string", *value);
    return "";
  }

  // The name of a field as messages show it.
  std::string PathOf(const char* name) const { return path_ + name; }

  [[noreturn]] void Fail(const std::string& problem) const { FailConfig(file_, problem); }

  [[noreturn]] void Wrong(const char* name, std::string_view expected, const Json& value) const {
    FailConfig(file_,
               fmt::format("the field '{}{}' must be {} but is {}; take the config.json that "
                           "belongs to the weights",
                           path_, name, expected, ShownInMessage(value)));
  }

 private:
  std::uint64_t Number(const char* name, const Json& value) const {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= kMaxDimension) {
      return value.get<std::uint64_t>();
    }
    if (strict_) Wrong(name, fmt::format("an integer from 0 to {}", kMaxDimension), value);
    return 0;
  }

  const Json& object_;
  std::string file_;
  std::string path_;
  bool strict_;
};

// quantization_config, or compressed-tensors' older compression_config, of `object`, whose members
// `outer` reads; nothing where there is none. Messages put `path` before the names of fields.
std::optional<QuantizationConfig> ParseQuantization(const nlohmann::json& object,
                                                    const ConfigFields& outer,
                                                    const std::string& file,
                                                    const std::string& path);

// Which layers have experts and which hold an indexer (moe_layers, indexer_layers of the config,
// whose dimensions were read before). `has_indexer`: whether the architecture has indexers.
void ReadLayerKinds(const ConfigFields& fields, bool has_indexer, ModelConfig& config);

// What is DeepSeek-V4's own (v4, v_head_dim, index_n_heads, index_head_dim and indexer_layers of
// the config, whose other dimensions were read before).
void ReadV4(const ConfigFields& fields, ModelConfig& config);

}  // namespace dsv3::convert
