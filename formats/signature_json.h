#pragma once

#include <set>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/message_text.h"

// Reading the JSON of signatures; private to formats/signature_*.cc.
namespace dsv3::formats {

inline constexpr std::string_view kSignatureAdvice =
    "the signature is damaged or of another form: get it again, or sign the model again";

[[noreturn]] inline void FailSignature(const std::string& file, std::string_view problem) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}; {}", ShownPath(file), problem, kSignatureAdvice),
              {.file = file, .tensor = {}});
}

// Calls `visit(key)` for each member of the next value, an object; it must read the member's value.
// `what` is what messages call the object. Throws where a member is repeated or one of `required`
// is missing.
template <typename Visit>
void ReadObject(JsonReader& json, const std::string& file, std::string_view what,
                const std::set<std::string>& required, Visit visit) {
  std::set<std::string> seen;
  json.BeginObject();
  while (const auto member = json.NextMember()) {
    const std::string key(*member);
    if (!seen.insert(key).second) {
      FailSignature(file, fmt::format("{} has {} twice", what, QuoteForMessage(key)));
    }
    visit(key);
  }
  for (const std::string& key : required) {
    if (!seen.contains(key)) {
      FailSignature(file, fmt::format("{} lacks {}", what, QuoteForMessage(key)));
    }
  }
}

}  // namespace dsv3::formats
