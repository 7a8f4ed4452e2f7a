#include "cli/inspect_gguf.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "cli/json_members.h"
#include "cli/table.h"
#include "cli/units.h"
#include "cli/version.h"
#include "convert/open/gguf_model.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"

namespace dsv3::cli {
namespace {

using convert::GgufSummary;
using convert::Inspection;
using formats::GgufValue;
using formats::JsonWriter;

// Elements of an array that are shown.
constexpr std::size_t kFirstElements = 3;
// Bytes of a text that are shown to a person.
constexpr std::size_t kLongestText = 60;

template <typename T>
struct IsArray : std::false_type {};
template <typename T>
struct IsArray<std::vector<T>> : std::true_type {};

// The kind of a value or of an array's elements, as docs/gguf.md calls it.
template <typename T>
constexpr std::string_view KindOf() {
  if constexpr (std::is_same_v<T, bool>) {
    return "bool";
  } else if constexpr (std::is_same_v<T, std::string>) {
    return "text";
  } else if constexpr (std::is_floating_point_v<T>) {
    return sizeof(T) == 4 ? "f32" : "f64";
  } else if constexpr (std::is_unsigned_v<T>) {
    return sizeof(T) == 1 ? "u8" : sizeof(T) == 2 ? "u16" : sizeof(T) == 4 ? "u32" : "u64";
  } else {
    return sizeof(T) == 1 ? "i8" : sizeof(T) == 2 ? "i16" : sizeof(T) == 4 ? "i32" : "i64";
  }
}

std::string KindName(const GgufValue& value) {
  return std::visit(
      [](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (IsArray<T>::value) {
          return fmt::format("[{}]", KindOf<typename T::value_type>());
        } else {
          return std::string(KindOf<T>());
        }
      },
      value);
}

// A text may be a whole chat template: its beginning, not cut within a character.
std::string ShortText(std::string_view text) {
  if (text.size() <= kLongestText) return fmt::format("'{}'", Printable(text));
  std::size_t end = kLongestText;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("'{}…', {}", Printable(text.substr(0, end)), FormatBytes(text.size()));
}

template <typename T>
std::string ElementText(const T& element) {
  if constexpr (std::is_same_v<T, std::string>) {
    return ShortText(element);
  } else {
    return fmt::format("{}", element);
  }
}

std::string ValueText(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using T = std::decay_t<decltype(held)>;
        if constexpr (IsArray<T>::value) {
          std::string text = fmt::format("{}:", FormatCount(held.size()));
          for (std::size_t i = 0; i < std::min(held.size(), kFirstElements); ++i) {
            text += (i == 0 ? " " : ", ") + ElementText<typename T::value_type>(held[i]);
          }
          return text + (held.size() > kFirstElements ? ", …" : "");
        } else {
          return ElementText<T>(held);
        }
      },
      value);
}

template <typename T>
void WriteElement(JsonWriter& json, const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    json.Bool(value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    json.String(Utf8Of(value));
  } else if constexpr (std::is_floating_point_v<T>) {
    json.Double(static_cast<double>(value));
  } else if constexpr (std::is_unsigned_v<T>) {
    json.Uint(value);
  } else {
    json.Int(value);
  }
}

void WriteValue(JsonWriter& json, const GgufValue& value) {
  std::visit(
      [&](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (IsArray<T>::value) {
          json.Uint("count", held.size());
          json.BeginArray("first");
          for (std::size_t i = 0; i < std::min(held.size(), kFirstElements); ++i) {
            WriteElement<typename T::value_type>(json, held[i]);
          }
          json.EndArray();
        } else {
          json.Key("value");
          WriteElement<T>(json, held);
        }
      },
      value);
}

std::string_view TypeName(formats::GgufType type) { return formats::GgufTypeInfoOf(type).name; }

std::string Totals(const Inspection& inspection) {
  const GgufSummary& s = *inspection.gguf;
  Table table("ll");
  table.Add({"format", fmt::format("GGUF, version {}", inspection.model.gguf->version)});
  table.Add({"architecture", s.architecture.empty() ? "not said" : Printable(s.architecture)});
  std::string parameters = FormatParameters(s.parameters);
  if (s.activated_parameters) {
    parameters +=
        fmt::format(", {} activated per token ({}; {})", FormatParameters(*s.activated_parameters),
                    FormatCount(s.parameters), FormatCount(*s.activated_parameters));
  } else {
    parameters += fmt::format(" ({})", FormatCount(s.parameters));
  }
  table.Add({"parameters", parameters});
  table.Add({"tensors", fmt::format("{} in {}, {}", FormatCount(s.tensors),
                                    FormatCountOf(s.files, "file"), FormatBytes(s.tensor_bytes))});
  std::string types;
  for (const GgufSummary::TypeTotal& total : s.types) {
    if (!types.empty()) types += ", ";
    types += fmt::format("{} {}", TypeName(total.type), FormatBytes(total.bytes));
  }
  table.Add({"types", types});
  return table.Text("  ");
}

}  // namespace

std::string GgufText(const Inspection& inspection, std::size_t columns) {
  Table keys("lll");
  keys.Add({"key", "kind", "value"});
  for (const auto& [key, value] : inspection.model.gguf->keys) {
    keys.Add({Printable(key), KindName(value), ValueText(value)});
  }
  Table tensors("lllrrr");
  tensors.Add({"tensor", "type", "shape", "count", "parameters", "bytes"});
  for (const GgufSummary::Group& group : inspection.gguf->groups) {
    tensors.Add({Printable(group.name), std::string(TypeName(group.type)),
                 formats::ShapeToString(group.shape),
                 group.tensors > 1 ? "×" + FormatCount(group.tensors) : "",
                 FormatParameters(group.parameters), FormatBytes(group.bytes)});
  }
  return formats::ShownPath(inspection.path) + "\n" + Totals(inspection) + "\n" +
         keys.Text("", columns) + "\n" + tensors.Text("", columns);
}

std::string GgufJson(const Inspection& inspection, std::string_view tool) {
  const GgufSummary& s = *inspection.gguf;
  JsonWriter json(2);
  json.BeginObject();
  StringMember(json, "tool", tool);
  StringMember(json, "version", kVersion);
  StringMember(json, "input", inspection.path.string());
  StringMember(json, "form", "gguf");
  json.Uint("gguf_version", inspection.model.gguf->version);
  StringOrNullMember(json, "architecture", s.architecture);
  json.Uint("files", s.files);
  json.Uint("file_bytes", s.file_bytes);
  json.Uint("tensors", s.tensors);
  json.Uint("tensor_bytes", s.tensor_bytes);
  json.Uint("parameters", s.parameters);
  UintOrNullMember(json, "activated_parameters", s.activated_parameters);
  json.BeginArray("types");
  for (const GgufSummary::TypeTotal& total : s.types) {
    json.BeginObject();
    StringMember(json, "type", TypeName(total.type));
    json.Uint("tensors", total.tensors);
    json.Uint("elements", total.elements);
    json.Uint("bytes", total.bytes);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("keys");
  for (const auto& [key, value] : inspection.model.gguf->keys) {
    json.BeginObject();
    StringMember(json, "key", key);
    StringMember(json, "kind", KindName(value));
    WriteValue(json, value);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("groups");
  for (const GgufSummary::Group& group : s.groups) {
    json.BeginObject();
    StringMember(json, "name", group.name);
    StringMember(json, "type", TypeName(group.type));
    json.Uints("shape", group.shape);
    json.Uint("tensors", group.tensors);
    json.Uint("parameters", group.parameters);
    json.Uint("bytes", group.bytes);
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  return json.Take() + "\n";
}

}  // namespace dsv3::cli
