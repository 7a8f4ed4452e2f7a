// An input is a JSON text. Each edit is compared with what another JSON library makes of the text
// before and after it.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "formats/error.h"
#include "formats/json/json_edit.h"
#include "tests/fuzz/python_numbers.h"
#include "tests/fuzz/require.h"

namespace {

using Json = nlohmann::json;

const std::string kFile = "fuzzed";
constexpr std::string_view kValue = R"({"new":[1,-2.5e3,"\u00e9"]})";

// Of a text as Python writes it.
Json Parse(std::string_view text) { return Json::parse(WithoutPythonNumbers(text)); }

bool CanBePath(const std::string& key) { return key.find('/') == std::string::npos; }

// `path` exists in `root` and its last component is `key` of `parent`, a part of `root`.
void TryEdits(std::string_view text, const Json& root, const Json::json_pointer& parent,
              const std::string& path, const std::string& key) {
  std::optional<std::string> member;
  try {
    member = dsv3::formats::JsonMember(text, path, kFile);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.message().find("appears twice") != std::string::npos);
    return;
  }
  DSV3_FUZZ_REQUIRE(member.has_value());
  DSV3_FUZZ_REQUIRE(Parse(*member) == root[parent][key]);

  const std::string removed = dsv3::formats::RemoveJsonMember(text, path, kFile);
  Json expected = root;
  expected[parent].erase(key);
  DSV3_FUZZ_REQUIRE(Parse(removed) == expected);
  DSV3_FUZZ_REQUIRE(!dsv3::formats::JsonMember(removed, path, kFile));
  DSV3_FUZZ_REQUIRE(dsv3::formats::RemoveJsonMember(removed, path, kFile) == removed);

  const std::string replaced = dsv3::formats::ReplaceJsonMember(text, path, kValue, kFile);
  expected = root;
  expected[parent][key] = Parse(kValue);
  DSV3_FUZZ_REQUIRE(Parse(replaced) == expected);
  DSV3_FUZZ_REQUIRE(dsv3::formats::JsonMember(replaced, path, kFile) == kValue);
  DSV3_FUZZ_REQUIRE(dsv3::formats::ReplaceJsonMember(replaced, path, *member, kFile) == text);
}

void TryAppend(std::string_view text, const Json& root) {
  std::string key = "appended";
  while (root.contains(key)) key += '+';
  const std::string appended = dsv3::formats::AppendJsonMember(text, key, kValue, kFile);
  Json expected = root;
  expected[key] = Parse(kValue);
  DSV3_FUZZ_REQUIRE(Parse(appended) == expected);
  if (root.empty()) return;  // white space between the braces goes with an only member
  DSV3_FUZZ_REQUIRE(dsv3::formats::RemoveJsonMember(appended, key, kFile) == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    dsv3::formats::JsonMember(text, "x", kFile);
  } catch (const dsv3::Error& error) {
    DSV3_FUZZ_REQUIRE(error.code() == dsv3::ErrorCode::kBadInput);
    const std::string_view message = error.message();
    const auto says = [&](std::string_view words) {
      return message.find(words) != std::string_view::npos;
    };
    DSV3_FUZZ_REQUIRE(message.starts_with("fuzzed: "));
    DSV3_FUZZ_REQUIRE(says("nested deeper") || says("byte order mark") || says("appears twice") ||
                      text.find('\0') != std::string_view::npos ||  // ends the text there
                      !Json::accept(WithoutPythonNumbers(text)));
    return 0;
  }
  DSV3_FUZZ_REQUIRE(Json::accept(WithoutPythonNumbers(text)));
  const Json root = Parse(text);
  if (!root.is_object()) return 0;
  int tried = 0;
  for (const auto& [key, value] : root.items()) {
    if (!CanBePath(key) || ++tried > 4) continue;
    TryEdits(text, root, Json::json_pointer(), key, key);
    if (!value.is_object() || value.empty()) continue;
    const std::string inner = value.items().begin().key();
    if (CanBePath(inner)) {
      TryEdits(text, root, Json::json_pointer() / key, key + "/" + inner, inner);
    }
  }
  TryAppend(text, root);
  return 0;
}
