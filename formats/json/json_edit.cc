#include "formats/json/json_edit.h"

#include <cstddef>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

// The place of a member in the text.
struct MemberSpan {
  std::size_t key_begin = 0;
  std::size_t value_begin = 0;
  std::size_t value_end = 0;
  std::size_t object_begin = 0;             // after the '{' of the object that holds it
  std::size_t object_end = 0;               // at the '}'
  std::optional<std::size_t> next_key;      // where the next member's key begins
  std::optional<std::size_t> previous_end;  // where the previous member's value ends
};

JsonSource ConfigSource(const std::string& file) {
  return {.file = file, .part = "the file", .advice = "correct the file or download it again"};
}

// Reads the value that comes next and finds `path` in it.
std::optional<MemberSpan> FindInValue(JsonReader& reader, std::string_view path,
                                      const JsonSource& source) {
  if (reader.Peek() != JsonType::kObject) {
    reader.SkipValue();
    return std::nullopt;
  }
  const std::size_t slash = path.find('/');
  const std::string_view wanted = path.substr(0, slash);
  std::optional<MemberSpan> found;
  bool seen = false;
  bool just_found = false;
  std::optional<std::size_t> previous_end;
  reader.BeginObject();
  const std::size_t object_begin = reader.offset();
  while (const std::optional<std::string_view> key = reader.NextMember()) {
    const std::size_t key_begin = reader.key_offset();
    if (just_found) found->next_key = key_begin;
    just_found = false;
    if (*key != wanted) {
      reader.SkipValue();
    } else if (seen) {
      throw Error(
          ErrorCode::kBadInput,
          fmt::format(
              "{}: the member {} appears twice, at byte {} for the second time; remove one of them",
              ShownPath(source.file), QuoteForMessage(wanted), key_begin),
          {.file = std::string(source.file), .tensor = {}});
    } else {
      seen = true;
      if (slash != std::string_view::npos) {
        found = FindInValue(reader, path.substr(slash + 1), source);
      } else {
        reader.Peek();  // to the first byte of the value
        const std::size_t value_begin = reader.offset();
        reader.SkipValue();
        found = MemberSpan{.key_begin = key_begin,
                           .value_begin = value_begin,
                           .value_end = reader.offset(),
                           .object_begin = object_begin,
                           .object_end = 0,
                           .next_key = std::nullopt,
                           .previous_end = previous_end};
        just_found = true;
      }
    }
    previous_end = reader.offset();
  }
  if (slash == std::string_view::npos && found) found->object_end = reader.offset() - 1;
  return found;
}

std::optional<MemberSpan> FindMember(std::string_view text, std::string_view path,
                                     const std::string& file) {
  const JsonSource source = ConfigSource(file);
  JsonReader reader(text, source);
  reader.AllowPythonNumbers(true);
  const std::optional<MemberSpan> found = FindInValue(reader, path, source);
  reader.End();
  return found;
}

void RequireJsonValue(std::string_view value, const std::string& file) {
  JsonReader reader(value, {.file = file, .part = "the new value", .advice = ""});
  reader.AllowPythonNumbers(true);
  reader.SkipValue();
  reader.End();
}

// `text` with [begin, end) replaced.
std::string Spliced(std::string_view text, std::size_t begin, std::size_t end,
                    std::string_view replacement) {
  std::string result;
  result.reserve(text.size() + replacement.size());
  result.append(text, 0, begin).append(replacement).append(text, end);
  return result;
}

}  // namespace

std::optional<std::string> JsonMember(std::string_view text, std::string_view path,
                                      const std::string& file) {
  const std::optional<MemberSpan> member = FindMember(text, path, file);
  if (!member) return std::nullopt;
  return std::string(text.substr(member->value_begin, member->value_end - member->value_begin));
}

std::string RemoveJsonMember(std::string_view text, std::string_view path,
                             const std::string& file) {
  const std::optional<MemberSpan> member = FindMember(text, path, file);
  if (!member) return std::string(text);
  // The next member takes the place of this one; a last member takes the comma before it along, and
  // an only member leaves "{}".
  if (member->next_key) return Spliced(text, member->key_begin, *member->next_key, "");
  if (member->previous_end) return Spliced(text, *member->previous_end, member->value_end, "");
  return Spliced(text, member->object_begin, member->object_end, "");
}

std::string ReplaceJsonMember(std::string_view text, std::string_view path, std::string_view value,
                              const std::string& file) {
  const std::optional<MemberSpan> member = FindMember(text, path, file);
  if (!member) return std::string(text);
  RequireJsonValue(value, file);
  return Spliced(text, member->value_begin, member->value_end, value);
}

std::string AppendJsonMember(std::string_view text, std::string_view key, std::string_view value,
                             const std::string& file) {
  RequireJsonValue(value, file);
  JsonReader reader(text, ConfigSource(file));
  reader.AllowPythonNumbers(true);
  std::optional<std::size_t> last_key;
  std::size_t last_value = 0;
  std::size_t last_end = 0;
  reader.BeginObject();
  const std::size_t object_begin = reader.offset();
  while (const std::optional<std::string_view> member = reader.NextMember()) {
    last_key = reader.key_offset();
    if (*member == key) {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("{}: the member {} is there already, at byte {}", ShownPath(file),
                              QuoteForMessage(key), *last_key),
                  {.file = file, .tensor = {}});
    }
    reader.Peek();  // to the first byte of the value
    last_value = reader.offset();
    reader.SkipValue();
    last_end = reader.offset();
  }
  reader.End();

  std::string member;
  if (!last_key) {
    AppendJsonString(member, key);
    member.append(": ").append(value);
    return Spliced(text, object_begin, object_begin, member);
  }
  // The last member shows the white space: before its key, and around its colon.
  std::size_t space = *last_key;
  while (text[space - 1] != ',' && text[space - 1] != '{') --space;
  const std::size_t colon = text.find_last_of('"', text.find_last_of(':', last_value - 1)) + 1;
  member.append(",").append(text, space, *last_key - space);
  AppendJsonString(member, key);
  member.append(text, colon, last_value - colon).append(value);
  return Spliced(text, last_end, last_end, member);
}

}  // namespace dsv3::formats
