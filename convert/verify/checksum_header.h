#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "convert/plan/container.h"
#include "convert/verify/checksum_basis.h"
#include "formats/finding.h"

// Compares the header of a weight file with a manifest; an internal part of checksum.h.
namespace dsv3::convert {

struct HeaderComparison {
  std::optional<ContainerHeader> header;  // when it can be read
  formats::Findings findings;
};

// Whether a file of this name is expected to have a header.
bool HasHeader(const std::string& name, const ExpectedFile& expected);

// `path` is read; `name` is what findings call the file. Every tensor that is missing, added, or of
// another dtype, shape or place is a finding, as is a header that differs in no tensor, or that
// cannot be read.
HeaderComparison CompareHeader(const std::string& name, const std::filesystem::path& path,
                               const ExpectedFile& expected);

// An error finding.
formats::Finding Difference(std::string kind, const std::string& file, const std::string& tensor,
                            std::string message);
// The finding of a file that cannot be read.
formats::Finding Unreadable(const std::string& file, const Error& error);

}  // namespace dsv3::convert
