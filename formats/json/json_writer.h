#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace dsv3::formats {

// Writes JSON into a growing string: members in the order of the calls, so equal calls give equal
// bytes. Strings must be UTF-8; they are escaped as Python's json.dumps(ensure_ascii=False) does
// (quote, backslash, and control characters; \b \f \n \r \t by their short forms).
class JsonWriter {
 public:
  enum class Charset {
    kUtf8,   // characters beyond ASCII are written unchanged
    kAscii,  // they become \uXXXX, in UTF-16, as Python's json.dumps does by default
  };

  // indent 0 writes compact JSON ("," and ":"); otherwise one member a line, as Python's
  // json.dumps(indent=n) does, with "[]" and "{}" for what is empty.
  explicit JsonWriter(int indent, Charset charset = Charset::kUtf8)
      : indent_(indent), charset_(charset) {}

  void BeginObject();
  void EndObject();
  void BeginArray();
  void EndArray();
  void Key(std::string_view key);
  void String(std::string_view value);
  void Uint(std::uint64_t value);
  void Int(std::int64_t value);
  // The shortest form that reads back the same, as Python writes it ("1.0", "1e-05"); null for NaN
  // and infinity.
  void Double(double value);
  void Bool(bool value);
  void Null();
  // A value that is JSON already, inserted unchanged.
  void Raw(std::string_view json);

  // Members of an object: the key, and the value or its beginning.
  void BeginObject(std::string_view key) {
    Key(key);
    BeginObject();
  }
  void BeginArray(std::string_view key) {
    Key(key);
    BeginArray();
  }
  void String(std::string_view key, std::string_view value) {
    Key(key);
    String(value);
  }
  void Uint(std::string_view key, std::uint64_t value) {
    Key(key);
    Uint(value);
  }
  void Double(std::string_view key, double value) {
    Key(key);
    Double(value);
  }
  void Bool(std::string_view key, bool value) {
    Key(key);
    Bool(value);
  }
  void Null(std::string_view key) {
    Key(key);
    Null();
  }
  void Raw(std::string_view key, std::string_view json) {
    Key(key);
    Raw(json);
  }

  // Arrays, alone and as members.
  template <typename Values = std::initializer_list<std::string_view>>
  void Strings(const Values& values) {
    BeginArray();
    for (const auto& value : values) String(value);
    EndArray();
  }
  template <typename Values = std::initializer_list<std::uint64_t>>
  void Uints(const Values& values) {
    BeginArray();
    for (const std::uint64_t value : values) Uint(value);
    EndArray();
  }
  template <typename Values = std::initializer_list<std::string_view>>
  void Strings(std::string_view key, const Values& values) {
    Key(key);
    Strings(values);
  }
  template <typename Values = std::initializer_list<std::uint64_t>>
  void Uints(std::string_view key, const Values& values) {
    Key(key);
    Uints(values);
  }

  const std::string& text() const { return text_; }
  std::string Take() { return std::move(text_); }

 private:
  void BeforeValue();
  void NewLine();
  void Begin(char opening);
  void End(char closing);

  std::string text_;
  int indent_ = 0;
  Charset charset_ = Charset::kUtf8;
  int depth_ = 0;
  bool first_ = true;  // nothing written yet in the innermost container
  bool after_key_ = false;
};

// Appends `value` as a JSON string, quotes included.
void AppendJsonString(std::string& out, std::string_view value,
                      JsonWriter::Charset charset = JsonWriter::Charset::kUtf8);

}  // namespace dsv3::formats
