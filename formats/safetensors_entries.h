#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/finding.h"
#include "formats/safetensors.h"

// The JSON of a safetensors header; an internal part of the parser in safetensors.h.
namespace dsv3::formats {

// Collects nonconformities, one note per kind with a count: a hostile header must not turn each of
// its bytes into a finding. `kind` and `what` must be literals.
class HeaderNotes {
 public:
  void Add(std::string_view kind, const std::string& tensor, std::string_view what);
  Findings ToFindings(const std::string& file) const;

 private:
  struct Note {
    std::string_view kind;
    std::string tensor;  // the first one concerned
    std::string_view what;
    std::uint64_t count;
  };
  std::vector<Note> notes_;
};

// Appends the entries of `text` to header.tensors, in the order of the text, and to
// header.metadata. Checks each entry by itself; offsets and shapes are not judged. Throws Error
// (kBadInput).
void ReadHeaderEntries(std::string_view text, const std::string& file, SafetensorsHeader& header,
                       HeaderNotes& notes);

}  // namespace dsv3::formats
