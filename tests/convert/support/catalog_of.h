#pragma once

#include <filesystem>

#include "convert/catalog/catalog.h"
#include "formats/checkpoint_files.h"

namespace dsv3::testing {

// The catalog of a checkpoint; findings are passed over.
inline convert::Catalog CatalogOf(const std::filesystem::path& path) {
  formats::CheckpointFiles files = formats::OpenCheckpointFiles(path);
  return convert::Catalog::FromCheckpoint(files);
}

}  // namespace dsv3::testing
