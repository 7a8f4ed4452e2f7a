#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "convert/verify/signature_files.h"

// What signing and verifying share; private to convert/verify/*signature*.cc.
namespace dsv3::convert {

inline constexpr std::uint64_t kMaxSignatureBytes = std::uint64_t{64} << 20;

// Files that do not belong to a model: git's files, the hub's records of a download, and the
// signature, under its usual name and at `signature`, where that lies in `directory`.
IgnoredPaths UnsignedPaths(const std::filesystem::path& directory,
                           const std::filesystem::path& signature);

// The path that the user gave, or model.sig in the model's directory. Throws Error: kUsage for a
// single file without a given path, kBadInput for a model that does not exist.
std::filesystem::path SignaturePath(const std::filesystem::path& given,
                                    const std::filesystem::path& model);

// The directory of a model; of a single file, the one that holds it. Throws Error (kBadInput).
std::filesystem::path ModelDirectory(const std::filesystem::path& model);

// A key file's text. Throws Error (kBadInput, kIo).
std::string ReadKeyFile(const std::filesystem::path& path);

}  // namespace dsv3::convert
