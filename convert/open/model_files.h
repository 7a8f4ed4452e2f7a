#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/open/open_model.h"

namespace dsv3::convert {

// The text of a model's shards beside their data. Together with the data it gives the shards byte
// for byte.
struct ModelFiles {
  std::optional<std::string> index;  // nothing where there is none
  // Headers without their lengths, by position in OpenedModel::catalog.files().
  std::vector<std::string> headers;
};

// Reads them. Of rank shards they are the texts of the original, or, where tensors were dropped or
// became BF16, those of the model that the ranks hold. Throws Error: kBadInput for a header that
// changed since the model was opened, kIo.
ModelFiles ReadModelFiles(const OpenedModel& model);

// The bytes before a file's data: the header's length and the header, one of ModelFiles::headers.
std::string WithLength(const std::string& header);

}  // namespace dsv3::convert
