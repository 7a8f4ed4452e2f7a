#include "formats/npy.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/foreign_file.h"
#include "formats/io/input_file.h"
#include "formats/message_text.h"

namespace dsv3::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "the header's length is copied");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kPreambleBytes = 8;  // magic and version

std::string ReadText(const InputFile& file, std::uint64_t offset, std::uint64_t bytes) {
  std::string text(bytes, '\0');
  file.ReadAt(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

// Parses the dict of a header into the members that it names.
class HeaderParser {
 public:
  HeaderParser(const InputFile& file, std::string_view text, bool python2, NpyHeader& header)
      : file_(file), text_(text), python2_(python2), header_(header) {}

  void Parse() {
    Expect('{');
    while (!Accept('}')) {
      ParseItem();
      if (!Accept(',') && !Peek('}')) FailSyntax("',' or '}'");
    }
    SkipSpace();
    if (at_ != text_.size()) FailSyntax("spaces to the end of the header");
    for (const bool* seen : {&has_descr_, &has_order_, &has_shape_}) {
      if (*seen) continue;
      const std::string_view key = seen == &has_descr_   ? "descr"
                                   : seen == &has_order_ ? "fortran_order"
                                                         : "shape";
      FailNpy(file_, fmt::format("its header has no key '{}'", key));
    }
  }

 private:
  void ParseItem() {
    const std::string_view key = ParseString("a key in quotes");
    Expect(':');
    if (key == "descr") {
      Once(has_descr_, key);
      ParseDescr();
    } else if (key == "fortran_order") {
      Once(has_order_, key);
      ParseOrder();
    } else if (key == "shape") {
      Once(has_shape_, key);
      ParseShape();
    } else {
      FailNpy(file_, fmt::format("its header has the key {}, which the format does not know",
                                 QuoteForMessage(key)));
    }
  }

  void Once(bool& seen, std::string_view key) const {
    if (seen) FailNpy(file_, fmt::format("its header has the key '{}' twice", key));
    seen = true;
  }

  void ParseDescr() {
    if (Peek('[') || Peek('(')) {
      FailNpy(file_, "its elements are records or sub-arrays, where numbers are needed",
              "save one field of the array with numpy.save");
    }
    const std::string_view descr = ParseString("a dtype in quotes");
    header_.descr = descr;
    if (descr.ends_with('O') || descr == "object") {
      FailNpy(file_, "its elements are pickled Python objects, which are not read",
              "save an array of numbers: numpy.save with .astype(numpy.int64) or "
              ".astype(numpy.float32)");
    }
    const bool known_form =
        descr.size() == 3 && (descr[0] == '<' || descr[0] == '>' || descr[0] == '|');
    const char kind = known_form ? descr[1] : '\0';
    const char bytes = known_form ? descr[2] : '\0';
    const bool number =
        (kind == 'i' || kind == 'u' || kind == 'f') &&
        (bytes == '2' || bytes == '4' || bytes == '8' || (bytes == '1' && kind != 'f'));
    // '|' says that the order of bytes does not matter.
    if (!number || (descr[0] == '|' && bytes != '1')) FailDtype(descr);
    header_.kind = kind == 'i'   ? NpyKind::kSigned
                   : kind == 'u' ? NpyKind::kUnsigned
                                 : NpyKind::kFloat;
    header_.element_bytes = static_cast<unsigned>(bytes - '0');
    header_.big_endian = descr[0] == '>';
  }

  [[noreturn]] void FailDtype(std::string_view descr) const {
    const bool raw = descr.size() > 1 && descr[1] == 'V';
    FailNpy(
        file_,
        fmt::format("its dtype is {}, {}which is not read: only integers of 1, 2, 4 and 8 bytes "
                    "and floats of 2, 4 and 8 bytes are",
                    QuoteForMessage(descr), raw ? "raw bytes or a type of ml_dtypes, " : ""),
        "save the array with .astype(numpy.int64) or .astype(numpy.float32)");
  }

  void ParseOrder() {
    SkipSpace();
    for (const std::string_view word : {"True", "False"}) {
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      header_.fortran_order = word == "True";
      return;
    }
    FailSyntax("True or False");
  }

  void ParseShape() {
    Expect('(');
    bool comma = true;
    while (!Accept(')')) {
      if (!comma) FailSyntax("',' or ')'");
      if (header_.shape.size() == kMaxNpyDimensions) {
        FailNpy(file_, fmt::format("it has more than {} dimensions", kMaxNpyDimensions));
      }
      header_.shape.push_back(ParseDimension());
      comma = Accept(',');
    }
    // In Python (3) is a number, and (3,) the shape.
    if (header_.shape.size() == 1 && !comma) FailShape("a number in parentheses");
  }

  std::uint64_t ParseDimension() {
    SkipSpace();
    if (Peek('-')) FailShape("a negative dimension");
    const char* const begin = text_.data() + at_;
    const char* const end = text_.data() + text_.size();
    std::uint64_t value = 0;
    const auto [rest, error] = std::from_chars(begin, end, value);
    if (error == std::errc::invalid_argument) FailSyntax("a dimension");
    if (error == std::errc::result_out_of_range) FailShape("a dimension beyond 64 bits");
    if (*begin == '0' && rest - begin > 1) FailSyntax("a dimension without leading zeros");
    at_ += static_cast<std::size_t>(rest - begin);
    if (python2_ && at_ < text_.size() && text_[at_] == 'L') ++at_;  // Python 2 wrote 3L
    return value;
  }

  [[noreturn]] void FailShape(std::string_view problem) const {
    FailNpy(file_, fmt::format("the shape in its header has {}", problem));
  }

  std::string_view ParseString(std::string_view what) {
    SkipSpace();
    if (!Peek('\'') && !Peek('"')) FailSyntax(what);
    const std::size_t end = text_.find(text_[at_], at_ + 1);
    if (end == text_.npos) FailSyntax("a text that ends with its quote");
    const std::string_view content = text_.substr(at_ + 1, end - at_ - 1);
    if (content.find_first_of("\\\r\n") != content.npos) FailSyntax("a text without escapes");
    at_ = end + 1;
    return content;
  }

  void SkipSpace() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  bool Peek(char wanted) {
    SkipSpace();
    return at_ < text_.size() && text_[at_] == wanted;
  }
  bool Accept(char wanted) {
    if (!Peek(wanted)) return false;
    ++at_;
    return true;
  }
  void Expect(char wanted) {
    if (!Accept(wanted)) FailSyntax(fmt::format("'{}'", wanted));
  }

  [[noreturn]] void FailSyntax(std::string_view expected) const {
    constexpr std::size_t kMostShown = 16;
    const std::string found = at_ < text_.size() ? QuoteForMessage(text_.substr(at_, kMostShown))
                                                 : "the end of the header";
    FailNpy(file_,
            fmt::format("its header is not a dict as NumPy writes it: {} is expected at byte "
                        "{} of the dict, found {}",
                        expected, at_, found));
  }

  const InputFile& file_;
  const std::string_view text_;
  const bool python2_;
  NpyHeader& header_;
  std::size_t at_ = 0;
  bool has_descr_ = false;
  bool has_order_ = false;
  bool has_shape_ = false;
};

[[noreturn]] void FailMagic(const InputFile& file) {
  if (file.bytes() == 0) FailNpy(file, "it is empty instead of a .npy array");
  constexpr std::uint64_t kMostJudged = 512;
  const std::string start = ReadText(file, 0, std::min(file.bytes(), kMostJudged));
  if (start.starts_with("PK\x03\x04")) {
    FailNpy(file, "it is a zip archive, perhaps a .npz file, instead of a .npy array",
            "save the one array that is meant with numpy.save");
  }
  if (start.starts_with('\x80')) {
    FailNpy(file, "it is a Python pickle, which is not read, instead of a .npy array",
            "save the array itself with numpy.save");
  }
  if (const std::string_view foreign = DescribeForeignFile(start); !foreign.empty()) {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", ShownPath(file.name()), foreign),
                {.file = file.name(), .tensor = {}});
  }
  if (kMagic.starts_with(start) || start.starts_with(kMagic)) {
    FailNpy(file, fmt::format("it ends after {}, before its header", ExactBytes(file.bytes())),
            "copy or write the file again");
  }
  FailNpy(file, "it is not a .npy array: it does not begin with \\x93NUMPY");
}

void CheckLength(const InputFile& file, NpyHeader& header) {
  const std::optional<std::uint64_t> elements = NumElements(header.shape);
  std::uint64_t end = 0;
  if (!elements || __builtin_mul_overflow(*elements, header.element_bytes, &end) ||
      __builtin_add_overflow(end, header.data_offset, &end)) {
    FailNpy(file, fmt::format("its shape {} of dtype '{}' has more bytes than 64 bits can count",
                              ShapeToString(header.shape), header.descr));
  }
  header.num_elements = *elements;
  if (end == file.bytes()) return;
  const std::string problem =
      fmt::format("its shape {} of dtype '{}' ends at byte {}, but the file has {}",
                  ShapeToString(header.shape), header.descr, end, ExactBytes(file.bytes()));
  if (end > file.bytes()) FailNpy(file, problem, "it is cut off: copy or write the file again");
  FailNpy(file, problem, "write one array to the file, with one call of numpy.save");
}

}  // namespace

void FailNpy(const InputFile& file, std::string_view problem, std::string_view advice) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {}; {}", ShownPath(file.name()), problem, advice),
              {.file = file.name(), .tensor = {}});
}

bool IsNpy(const InputFile& file) {
  return file.bytes() >= kMagic.size() && ReadText(file, 0, kMagic.size()) == kMagic;
}

NpyHeader ReadNpyHeader(const InputFile& file) {
  constexpr std::size_t kLongestPreamble = kPreambleBytes + 4;
  const std::string start =
      ReadText(file, 0, std::min<std::uint64_t>(file.bytes(), kLongestPreamble));
  if (start.size() < kPreambleBytes || !start.starts_with(kMagic)) FailMagic(file);
  const unsigned major = static_cast<unsigned char>(start[6]);
  const unsigned minor = static_cast<unsigned char>(start[7]);
  if (major < 1 || major > 3 || minor != 0) {
    FailNpy(file, fmt::format("its version of the .npy format is {}.{}; 1.0, 2.0 and 3.0 are read",
                              major, minor));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  const std::size_t preamble = kPreambleBytes + length_bytes;
  if (start.size() < preamble) FailMagic(file);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, start.data() + kPreambleBytes, length_bytes);
  if (header_bytes > kMaxNpyHeaderBytes) {
    FailNpy(file, fmt::format("its header has {}; at most {} are read", ExactBytes(header_bytes),
                              ExactBytes(kMaxNpyHeaderBytes)));
  }
  if (header_bytes > file.bytes() - preamble) {
    FailNpy(file,
            fmt::format("its header ends at byte {}, but the file has {}", preamble + header_bytes,
                        ExactBytes(file.bytes())),
            "it is cut off: copy or write the file again");
  }
  NpyHeader header;
  header.data_offset = preamble + header_bytes;
  const std::string text = ReadText(file, preamble, header_bytes);
  HeaderParser(file, text, major < 3, header).Parse();
  CheckLength(file, header);
  return header;
}

}  // namespace dsv3::formats
