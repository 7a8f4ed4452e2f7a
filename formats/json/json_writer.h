#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dsv3::formats {

// Writes JSON into a growing string: members in the order of the calls, so equal calls give equal
// bytes. Strings must be UTF-8; they are escaped as Python's json.dumps(ensure_ascii=False) does
// (quote, backslash, and control characters; \b \f \n \r \t by their short forms).
class JsonWriter {
 public:
  // indent 0 writes compact JSON ("," and ":"); otherwise one member a line, as Python's
  // json.dumps(indent=n) does, with "[]" and "{}" for what is empty.
  explicit JsonWriter(int indent) : indent_(indent) {}

  void BeginObject();
  void EndObject();
  void BeginArray();
  void EndArray();
  void Key(std::string_view key);
  void String(std::string_view value);
  void Uint(std::uint64_t value);
  void Int(std::int64_t value);
  void Double(double value);  // shortest form that reads back the same; null for NaN and infinity
  void Bool(bool value);
  void Null();
  // A value that is JSON already, inserted as it stands.
  void Raw(std::string_view json);

  const std::string& text() const { return text_; }
  std::string Take() { return std::move(text_); }

 private:
  void BeforeValue();
  void NewLine();

  std::string text_;
  int indent_ = 0;
  int depth_ = 0;
  bool first_ = true;      // nothing written yet at this depth
  bool after_key_ = false;
};

// Appends `value` as a JSON string, quotes included.
void AppendJsonString(std::string& out, std::string_view value);

}  // namespace dsv3::formats
