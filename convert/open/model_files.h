#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/open/open_model.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// The text of a model's shards beside their data. Together with the data it gives the shards byte
// for byte.
struct ModelFiles {
  std::optional<std::string> index;  // nothing where there is none
  // The bytes before the data of each, by position in OpenedModel::catalog.files().
  std::vector<std::string> headers;
};

// Reads them. Of rank shards they are the texts of the original, or, where tensors were dropped or
// became BF16, those of the model that the ranks hold. Throws Error: kBadInput for a header that
// changed since the model was opened, kIo.
ModelFiles ReadModelFiles(const OpenedModel& model);

// The text of the index in a directory. Throws Error (kBadInput, kIo) as formats::ReadSmallFile
// does.
std::string ReadIndexText(const std::filesystem::path& directory);
inline constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{256} << 20;

// What one of ModelFiles::headers says; `shard` is its file in the catalog. Throws Error
// (kBadInput) as formats::ParseSafetensorsHeader does.
formats::SafetensorsHeader ParseHeader(const SourceFile& shard, const std::string& header);

}  // namespace dsv3::convert
