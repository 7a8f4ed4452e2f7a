#include "formats/document_reader.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"
#include "formats/relative_name.h"

namespace dsv3::formats {
namespace {

bool IsHex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

}  // namespace

DocumentReader::DocumentReader(std::string_view text, std::string file, std::string_view part,
                               std::string_view advice)
    : file_(std::move(file)),
      part_(part),
      advice_(advice),
      reader_(text, {.file = file_, .part = part_, .advice = advice_}) {}

void DocumentReader::Fail(std::string_view problem) const {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {} is malformed: {}; {}", ShownPath(file_), part_, problem, advice_),
              {.file = file_, .tensor = {}});
}

void DocumentReader::FailTwice(std::string_view what, std::string_view name) const {
  Fail(fmt::format("{} has two members \"{}\"", what, name));
}

void DocumentReader::Require(unsigned seen, unsigned required, Names names,
                             std::string_view what) const {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if ((required >> i & 1) != 0 && (seen >> i & 1) == 0) {
      Fail(fmt::format("{} has no member \"{}\"", what, names[i]));
    }
  }
}

std::string DocumentReader::Hex(std::size_t digits) {
  std::string text(reader_.String());
  if (!IsHex(text, digits)) {
    Fail(fmt::format("a digest of {} lowercase hex digits is expected, {} found", digits,
                     QuoteForMessage(text)));
  }
  return text;
}

std::string DocumentReader::FileName() {
  std::string name(reader_.String());
  const std::string_view outside = OutsidePath(name);
  if (!outside.empty()) Fail(fmt::format("it lists file {}, {}", QuoteForMessage(name), outside));
  return name;
}

Dtype DocumentReader::ReadDtype() {
  const std::string_view name = reader_.String();
  const std::optional<Dtype> dtype = DtypeFromName(name);
  if (!dtype) Fail(fmt::format("it names an unknown dtype {}", QuoteForMessage(name)));
  return *dtype;
}

Shape DocumentReader::ReadShape() {
  Shape shape;
  Array([&] { shape.push_back(reader_.Uint()); });
  return shape;
}

std::vector<std::string> DocumentReader::Strings() {
  std::vector<std::string> strings;
  Array([&] { strings.emplace_back(reader_.String()); });
  return strings;
}

}  // namespace dsv3::formats
