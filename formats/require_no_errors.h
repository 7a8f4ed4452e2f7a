#pragma once

#include <string>
#include <string_view>

#include "formats/finding.h"

namespace dsv3::formats {

// The words for further errors behind "N more ": "problem was found", "problems were found".
struct OtherErrors {
  std::string_view one;
  std::string_view many;
};

// Throws the first error of `findings`, if there is one, as an Error of its file and tensor: kIo
// for an error of the disk ("shard-io-error"), else kBadInput. `prefix` is put before its message,
// and the number of other errors behind it. Warnings do not count.
void RequireNoErrors(const Findings& findings, const OtherErrors& others,
                     const std::string& prefix = {});

}  // namespace dsv3::formats
