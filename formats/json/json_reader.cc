#include "formats/json/json_reader.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <initializer_list>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/json/utf8.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "strings are scanned in 8-byte words");

constexpr std::uint64_t Repeat(unsigned char byte) { return 0x0101010101010101ULL * byte; }

// The lowest set bit lies in the first byte below 0x20 resp. equal to `byte`; bits above it may be
// wrong, for a borrow runs upwards.
constexpr std::uint64_t BytesBelowSpace(std::uint64_t word) {
  return (word - Repeat(0x20)) & ~word & Repeat(0x80);
}
constexpr std::uint64_t BytesEqual(std::uint64_t word, unsigned char byte) {
  const std::uint64_t difference = word ^ Repeat(byte);
  return (difference - Repeat(0x01)) & ~difference & Repeat(0x80);
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

constexpr std::string_view kPythonNumbers[] = {"NaN", "Infinity", "-Infinity"};

// A mistake that says how the file came to be, so that downloading it again would not help.
struct KnownMistake {
  std::string_view problem;
  std::string_view advice;
};

// What is wrong with the text at `offset`, where it is one of those; else empty. Nobody edits the
// JSON within files of another kind.
KnownMistake MistakeAt(const JsonSource& source, std::string_view text, std::size_t offset) {
  if (!source.file.ends_with(".json")) return {};
  using namespace std::string_view_literals;
  using Starts = std::initializer_list<std::string_view>;
  const auto begins = [](std::string_view part, Starts starts) {
    return std::any_of(starts.begin(), starts.end(),
                       [&](std::string_view start) { return part.starts_with(start); });
  };
  if (begins(text, {"\xEF\xBB\xBF"sv})) {
    return {"a byte order mark is not allowed",
            "an editor put it there: save the file as UTF-8 without a byte order mark, as other "
            "programs that read it need it, too"};
  }
  // Without a mark: of an object whose second character is ASCII, too. A hole has more zeros.
  const auto is = [&](std::size_t at, bool zero) {
    return at < text.size() && (text[at] == '\0') == zero;
  };
  const bool unmarked = (text.starts_with("{\0"sv) && is(2, false) && is(3, true)) ||
                        (text.starts_with("\0{"sv) && is(2, true) && is(3, false));
  if (unmarked || begins(text, {"\xFF\xFE"sv, "\xFE\xFF"sv})) {
    return {"UTF-16 text, as an editor or PowerShell saves it, begins",
            "save the file as UTF-8 without a byte order mark, or convert it with iconv -f UTF-16 "
            "-t UTF-8"};
  }
  if (begins(text.substr(std::min(offset, text.size())), {"//"sv, "/*"sv, "#"sv})) {
    return {"a comment is not allowed", "remove the comments from the file"};
  }
  return {};
}

}  // namespace

JsonReader::JsonReader(std::string_view text, const JsonSource& source)
    : text_(text), source_(source) {
  if (text_.substr(0, 3) == "\xEF\xBB\xBF") {
    FailSyntax("a byte order mark is not allowed", 0);
  }
  if (!MistakeAt(source_, text_, 0).problem.empty()) FailSyntax("", 0);  // which says it
  const std::size_t invalid = FindInvalidUtf8(text_);
  if (invalid != text_.size()) {
    FailSyntax(
        fmt::format("0x{:02X} is not valid UTF-8", static_cast<unsigned char>(text_[invalid])),
        invalid);
  }
}

void JsonReader::FailAt(std::string_view problem, std::size_t offset) const {
  const KnownMistake known = MistakeAt(source_, text_, offset);
  const std::string_view advice = known.advice.empty() ? source_.advice : known.advice;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {} at byte {} of {}{}{}{}", ShownPath(source_.file), problem, offset,
                          source_.part, offset == text_.size() ? ", its end" : "",
                          advice.empty() ? "" : "; ", advice),
              {.file = std::string(source_.file), .tensor = tensor_ == nullptr ? "" : *tensor_});
}

void JsonReader::FailSyntax(std::string_view problem, std::size_t offset) const {
  const KnownMistake known = MistakeAt(source_, text_, offset);
  FailAt(fmt::format("{} is not valid JSON: {}", source_.part,
                     known.problem.empty() ? problem : known.problem),
         offset);
}

void JsonReader::FailExpected(std::string_view expected, std::size_t offset) const {
  constexpr std::size_t kShown = 24;
  const std::string_view rest = text_.substr(offset);
  const std::size_t shown = rest.substr(0, kShown).find_first_of(",]} \t\r\n");
  const std::string found =
      rest.empty()
          ? "the end of the text"
          : QuoteForMessage(rest.substr(0, std::max<std::size_t>(1, std::min(shown, kShown))));
  FailAt(fmt::format("{} is malformed: {}{} is expected instead of {}", source_.part,
                     tensor_ == nullptr ? "" : "in tensor " + QuoteForMessage(*tensor_) + " ",
                     expected, found),
         offset);
}

void JsonReader::SkipSpace() {
  while (pos_ < text_.size()) {
    const char c = text_[pos_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
    ++pos_;
  }
}

char JsonReader::PeekByte() {
  SkipSpace();
  return pos_ < text_.size() ? text_[pos_] : '\0';
}

JsonType JsonReader::Peek() {
  const char c = PeekByte();
  switch (c) {
    case '{':
      return JsonType::kObject;
    case '[':
      return JsonType::kArray;
    case '"':
      return JsonType::kString;
    case 't':
    case 'f':
      return JsonType::kBool;
    case 'n':
      return JsonType::kNull;
    default:
      if (c == '-' || IsDigit(c)) return JsonType::kNumber;
      if (python_numbers_ && (c == 'N' || c == 'I')) return JsonType::kNumber;
      FailSyntax("a value is expected", pos_);
  }
}

void JsonReader::Enter(char opening, std::string_view expected) {
  if (PeekByte() != opening) {
    Peek();  // fails itself where no JSON value begins
    FailExpected(expected, pos_);
  }
  if (depth_ == kMaxDepth) {
    FailSyntax(fmt::format("it is nested deeper than {} levels", kMaxDepth), pos_);
  }
  ++depth_;
  ++pos_;
  first_ = true;
}

void JsonReader::Leave() {
  --depth_;
  ++pos_;
  first_ = false;
}

void JsonReader::BeginObject() { Enter('{', "an object"); }

std::optional<std::string_view> JsonReader::NextMember() {
  const char c = PeekByte();
  if (c == '}') {
    Leave();
    return std::nullopt;
  }
  if (!first_) {
    if (c != ',') FailSyntax("a comma or '}' is expected", pos_);
    ++pos_;
  }
  if (PeekByte() != '"')
    FailSyntax(first_ ? "a key or '}' is expected" : "a key is expected", pos_);
  first_ = false;
  key_offset_ = pos_;
  const std::string_view key = QuotedString();
  if (PeekByte() != ':') FailSyntax("a colon is expected", pos_);
  ++pos_;
  return key;
}

void JsonReader::BeginArray() { Enter('[', "an array"); }

bool JsonReader::NextElement() {
  const char c = PeekByte();
  if (c == ']') {
    Leave();
    return false;
  }
  if (!first_) {
    if (c != ',') FailSyntax("a comma or ']' is expected", pos_);
    ++pos_;
  }
  first_ = false;
  return true;
}

std::string_view JsonReader::String() {
  if (Peek() != JsonType::kString) FailExpected("a string", pos_);
  return QuotedString();
}

std::size_t JsonReader::FindStringSpecial(std::size_t from) const {
  std::size_t i = from;
  while (text_.size() - i >= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, text_.data() + i, sizeof word);
    const std::uint64_t special =
        BytesBelowSpace(word) | BytesEqual(word, '"') | BytesEqual(word, '\\');
    if (special != 0) return i + static_cast<std::size_t>(std::countr_zero(special)) / 8;
    i += sizeof word;
  }
  while (i < text_.size() && text_[i] != '"' && text_[i] != '\\' &&
         static_cast<unsigned char>(text_[i]) >= 0x20) {
    ++i;
  }
  return i;
}

// At the opening quote.
std::string_view JsonReader::QuotedString() {
  const std::size_t opening = pos_;
  std::size_t begin = opening + 1;
  bool escaped = false;
  for (;;) {
    std::size_t i = FindStringSpecial(begin);
    if (i == text_.size()) FailSyntax("a string is not closed", opening);
    if (text_[i] == '"') {
      pos_ = i + 1;
      if (!escaped) return text_.substr(begin, i - begin);
      unescaped_.append(text_, begin, i - begin);
      return unescaped_;
    }
    if (text_[i] != '\\') FailSyntax("a string holds a control character", i);
    if (!escaped) unescaped_.clear();
    escaped = true;
    unescaped_.append(text_, begin, i - begin);
    AppendEscape(i);
    begin = i;
  }
}

// At the backslash; moves `i` past the escape.
void JsonReader::AppendEscape(std::size_t& i) {
  const std::size_t backslash = i;
  const char kind = backslash + 1 < text_.size() ? text_[backslash + 1] : '\0';
  i += 2;
  constexpr std::string_view kShort = "\"\\/bfnrt";
  constexpr std::string_view kMeaning = "\"\\/\b\f\n\r\t";
  if (kind != 'u') {
    const std::size_t which = kind == '\0' ? std::string_view::npos : kShort.find(kind);
    if (which == std::string_view::npos) FailSyntax("a string holds an unknown escape", backslash);
    unescaped_ += kMeaning[which];
    return;
  }
  char32_t code_point = FourHexDigits(i);
  i += 4;
  const auto is_low = [](char32_t c) { return c >= 0xDC00 && c <= 0xDFFF; };
  if (is_low(code_point)) FailSyntax("half of a surrogate pair is alone", backslash);
  if (code_point >= 0xD800 && code_point <= 0xDBFF) {
    if (text_.substr(i, 2) != "\\u") FailSyntax("half of a surrogate pair is alone", backslash);
    const char32_t low = FourHexDigits(i + 2);
    if (!is_low(low)) FailSyntax("half of a surrogate pair is alone", backslash);
    i += 6;
    code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
  }
  AppendUtf8(unescaped_, code_point);
}

char32_t JsonReader::FourHexDigits(std::size_t offset) const {
  std::uint32_t value = 0;
  const std::string_view digits = text_.substr(std::min(offset, text_.size()), 4);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4) {
    FailSyntax("\\u is not followed by four hexadecimal digits", offset - 2);
  }
  return value;
}

std::uint64_t JsonReader::Uint() {
  constexpr std::string_view kExpected = "a whole number from 0 to 18446744073709551615";
  if (Peek() != JsonType::kNumber) FailExpected(kExpected, pos_);
  const std::size_t begin = pos_;
  std::uint64_t value = 0;
  std::size_t i = begin;
  bool fits = true;
  for (; i < text_.size() && IsDigit(text_[i]); ++i) {
    const auto digit = static_cast<std::uint64_t>(text_[i] - '0');
    fits = fits && !__builtin_mul_overflow(value, std::uint64_t{10}, &value) &&
           !__builtin_add_overflow(value, digit, &value);
  }
  const char next = i < text_.size() ? text_[i] : '\0';
  const bool leading_zero = text_[begin] == '0' && i - begin > 1;
  if (i == begin || !fits || leading_zero || next == '.' || next == 'e' || next == 'E') {
    Number();  // fails itself where no JSON number begins
    FailExpected(kExpected, begin);
  }
  pos_ = i;
  return value;
}

std::string_view JsonReader::Number() {
  if (Peek() != JsonType::kNumber) FailExpected("a number", pos_);
  const std::size_t begin = pos_;
  for (const std::string_view word : kPythonNumbers) {
    if (!python_numbers_ || !text_.substr(begin).starts_with(word)) continue;
    pos_ = begin + word.size();
    return word;
  }
  if (!IsDigit(text_[begin]) && text_[begin] != '-') FailSyntax("a value is expected", begin);
  std::size_t i = begin;
  const auto at = [&](std::size_t k) { return k < text_.size() ? text_[k] : '\0'; };
  const auto digits = [&] {
    if (!IsDigit(at(i))) FailSyntax("a digit is expected in a number", i);
    while (IsDigit(at(i))) ++i;
  };
  if (at(i) == '-') ++i;
  if (at(i) == '0' && IsDigit(at(i + 1))) FailSyntax("a number begins with a superfluous 0", i);
  digits();
  bool whole = true;
  if (at(i) == '.') {
    whole = false;
    ++i;
    digits();
  }
  if (at(i) == 'e' || at(i) == 'E') {
    whole = false;
    ++i;
    if (at(i) == '+' || at(i) == '-') ++i;
    digits();
  }
  pos_ = i;
  const std::string_view number = text_.substr(begin, i - begin);
  constexpr std::size_t kSurelyInRange = 300;
  if (!whole || number.size() > kSurelyInRange) CheckRange(number, begin);
  return number;
}

void JsonReader::CheckRange(std::string_view number, std::size_t offset) const {
  double value = 0;
  const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
  if (result.ec != std::errc::result_out_of_range) return;
  // Too large or too small? The decimal exponent of the leading digit decides.
  const std::size_t e = std::min(number.find_first_of("eE"), number.size());
  std::int64_t exponent = 0;
  if (e != number.size()) {
    const std::size_t sign = number[e + 1] == '+' ? 2 : 1;
    const auto parsed =
        std::from_chars(number.data() + e + sign, number.data() + number.size(), exponent);
    constexpr std::int64_t kHuge = std::int64_t{1} << 40;
    if (parsed.ec != std::errc()) exponent = number[e + 1] == '-' ? -kHuge : kHuge;
  }
  const std::size_t point = std::min(number.find('.'), e);
  const std::size_t leading = number.find_first_of("123456789");
  const std::int64_t place = leading < point ? static_cast<std::int64_t>(point - leading)
                                             : -static_cast<std::int64_t>(leading - point) + 1;
  if (exponent + place > 0) FailSyntax("a number is too large", offset);
}

void JsonReader::Literal(std::string_view word) {
  if (text_.substr(pos_, word.size()) != word) FailSyntax("a value is expected", pos_);
  pos_ += word.size();
}

void JsonReader::Null() {
  if (Peek() != JsonType::kNull) FailExpected("null", pos_);
  Literal("null");
}

std::string_view JsonReader::SkipValue() {
  const JsonType type = Peek();
  const std::size_t begin = pos_;
  switch (type) {
    case JsonType::kNull:
      Literal("null");
      break;
    case JsonType::kBool:
      Literal(text_[pos_] == 't' ? "true" : "false");
      break;
    case JsonType::kNumber:
      Number();
      break;
    case JsonType::kString:
      QuotedString();
      break;
    case JsonType::kArray:
      BeginArray();
      while (NextElement()) SkipValue();
      break;
    case JsonType::kObject:
      BeginObject();
      while (NextMember()) SkipValue();
      break;
  }
  return text_.substr(begin, pos_ - begin);
}

void JsonReader::End() {
  SkipSpace();
  if (pos_ != text_.size()) FailSyntax("nothing may follow the value", pos_);
}

}  // namespace dsv3::formats
