#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dsv3::formats {

// How errors call a JSON text. The views must outlive the reader.
struct JsonSource {
  std::string_view file;    // "model-00001-of-00002.safetensors"
  std::string_view part;    // "the header", "the index", "the file"
  std::string_view advice;  // "the file is damaged, download it again"
};

enum class JsonType { kNull, kBool, kNumber, kString, kArray, kObject };

// Reads the values of a strict JSON text (RFC 8259) in the order of the text. Beyond the grammar it
// rejects: anything but well-formed UTF-8, a byte order mark, lone surrogates in \u escapes,
// nesting deeper than kMaxDepth, and numbers too large for a double. The caller judges duplicate
// keys.
//
// Takes no memory beyond one buffer for the longest string that holds an escape. Errors are Error
// (kBadInput) and name file, byte offset within the text, and what was expected and found. One
// instance is used by one thread; `text` must outlive it and the views it returns.
class JsonReader {
 public:
  static constexpr int kMaxDepth = 127;

  // Checks the UTF-8 of the whole text at once.
  JsonReader(std::string_view text, const JsonSource& source);

  // Whether NaN, Infinity and -Infinity are numbers too, as Python's json writes them. Not at
  // first.
  void AllowPythonNumbers(bool allow) { python_numbers_ = allow; }

  // Names the tensor that the values to come belong to, for errors; nullptr for none. The string
  // must stay until the next call.
  void SetTensor(const std::string* name) { tensor_ = name; }

  // The type of the next value, as its first byte gives it.
  JsonType Peek();

  void BeginObject();
  // The next member's key, after which its value must be read; nothing at the end of the object.
  // The view is valid until the next string or key is read.
  std::optional<std::string_view> NextMember();

  void BeginArray();
  // Whether another element follows, which must be read then; false at the end of the array.
  bool NextElement();

  // A string's content without escapes. The view is valid until the next string or key is read.
  std::string_view String();
  // A whole number from 0 to 2^64 - 1 in plain digits: 4.0, 4e0, -0 and 04 are errors.
  std::uint64_t Uint();
  // Any number, as the text spells it.
  std::string_view Number();
  void Null();
  // Checks a value of any type and returns it as the text spells it.
  std::string_view SkipValue();
  // Only white space may follow.
  void End();

  // Offset of the next byte to read.
  std::size_t offset() const { return pos_; }
  // Offset at which the key that NextMember returned last begins, its quote included.
  std::size_t key_offset() const { return key_offset_; }

  // Throws the error "... is malformed: `expected` is expected at byte `offset`, found ...".
  [[noreturn]] void FailExpected(std::string_view expected, std::size_t offset) const;

 private:
  [[noreturn]] void FailSyntax(std::string_view problem, std::size_t offset) const;
  [[noreturn]] void FailAt(std::string_view problem, std::size_t offset) const;
  void SkipSpace();
  char PeekByte();  // skips white space; '\0' at the end
  void Enter(char opening, std::string_view expected);
  void Leave();
  void Literal(std::string_view word);
  std::size_t FindStringSpecial(std::size_t from) const;
  std::string_view QuotedString();
  void AppendEscape(std::size_t& i);
  char32_t FourHexDigits(std::size_t offset) const;
  void CheckRange(std::string_view number, std::size_t offset) const;

  std::string_view text_;
  JsonSource source_;
  bool python_numbers_ = false;
  const std::string* tensor_ = nullptr;
  std::size_t pos_ = 0;
  std::size_t key_offset_ = 0;
  int depth_ = 0;
  bool first_ = true;  // nothing read yet in the innermost container
  std::string unescaped_;
};

}  // namespace dsv3::formats
