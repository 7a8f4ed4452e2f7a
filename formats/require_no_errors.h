#pragma once

#include <string>
#include <string_view>

#include "formats/finding.h"

namespace dsv3::formats {

// What is said of further errors behind "N more ": "problem was found", "problems were found".
struct OtherErrors {
  std::string_view one;
  std::string_view many;
};

// Throws the first error of `findings`, if there is one, as an Error of its file and tensor: kIo
// for what the disk refused ("shard-io-error"), else kBadInput. `prefix` is put before its message,
// and behind it how many others there are. Warnings do not count.
void RequireNoErrors(const Findings& findings, const OtherErrors& others,
                     const std::string& prefix = {});

}  // namespace dsv3::formats
