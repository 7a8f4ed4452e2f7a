#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "formats/freed_shard.h"
#include "formats/safetensors.h"

namespace dsv3::convert {

// A safetensors file and its header.
struct TensorFile {
  SourceFile file;
  formats::SafetensorsHeader header;
};

// Opens a file of a directory, also one that was freed. Throws Error as formats::OpenOrFreed and
// formats::ReadSafetensorsHeader do.
TensorFile OpenTensorFile(const std::filesystem::path& directory, const std::string& name,
                          const std::vector<formats::FreedShard>& freed);

// Sets SourceFile::shares_names of all files where two of them have a tensor of one name.
void FindSharedNames(std::vector<TensorFile>& files);

// The catalog of the files, in their order. Where they share names, those of tensors are FILE/NAME.
Catalog CatalogOfFiles(std::vector<TensorFile> files);

}  // namespace dsv3::convert
