#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/dtype.h"
#include "formats/json/json_reader.h"
#include "formats/shape.h"

namespace dsv3::formats {

// Reads a JSON document of this toolkit's own, such as a manifest: objects with known members, and
// values that several documents have. Members that a reader does not know are skipped. Every fault
// is an Error (kBadInput) that names the file and what to do. One instance is used by one thread.
class DocumentReader {
 public:
  // `part` is what errors call the document ("the manifest"). The views must outlive the reader.
  DocumentReader(std::string_view text, std::string file, std::string_view part,
                 std::string_view advice);
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  // Throws the error "FILE: PART is malformed: `problem`; ADVICE".
  [[noreturn]] void Fail(std::string_view problem) const;

 protected:
  using Names = std::span<const std::string_view>;

  JsonReader& json() { return reader_; }

  // Calls `member(index)` for each member that `names` lists, at most once each, and skips others.
  // Returns which were there, as bits.
  template <typename Member>
  unsigned Object(Names names, std::string_view what, const Member& member) {
    unsigned seen = 0;
    reader_.BeginObject();
    while (const auto key = reader_.NextMember()) {
      const auto found = std::find(names.begin(), names.end(), *key);
      if (found == names.end()) {
        reader_.SkipValue();
        continue;
      }
      const auto index = static_cast<std::size_t>(found - names.begin());
      if ((seen >> index & 1) != 0) FailTwice(what, *found);
      seen |= 1U << index;
      member(index);
    }
    return seen;
  }

  // Calls `element()` for each element of an array.
  template <typename Element>
  void Array(const Element& element) {
    reader_.BeginArray();
    while (reader_.NextElement()) element();
  }

  // Throws for the first of `names` whose bit is in `required` and not in `seen`.
  void Require(unsigned seen, unsigned required, Names names, std::string_view what) const;

  std::string Hex(std::size_t digits);  // lowercase
  std::string FileName();               // one that stays inside the directory
  Dtype ReadDtype();
  Shape ReadShape();
  std::vector<std::string> Strings();

 private:
  [[noreturn]] void FailTwice(std::string_view what, std::string_view name) const;

  std::string file_;
  std::string_view part_;
  std::string_view advice_;
  JsonReader reader_;
};

}  // namespace dsv3::formats
