#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

// The files of one model in GGUF: one, or the splits that gguf-split makes.
namespace dsv3::formats {

inline constexpr char kGgufSplitNumberKey[] = "split.no";  // from 0
inline constexpr char kGgufSplitCountKey[] = "split.count";
inline constexpr char kGgufSplitTensorsKey[] = "split.tensors.count";  // of all splits
inline constexpr char kGgufArchitectureKey[] = "general.architecture";

// "NAME-00002-of-00003.gguf".
struct GgufSplitName {
  std::string base;          // "NAME"
  std::uint64_t number = 1;  // from 1
  std::uint64_t count = 1;
};
std::optional<GgufSplitName> ParseGgufSplitName(std::string_view file_name);
std::string GgufSplitFileName(const GgufSplitName& split);

// The name of the manifest that lies beside a GGUF file, or beside all splits of a model, where
// this toolkit made them: "NAME.gguf.manifest.json".
inline constexpr std::string_view kGgufManifestSuffix = ".gguf.manifest.json";
std::string GgufManifestName(std::string_view file_name);

// A key's value where it is a whole number that is not negative, whatever its kind.
std::optional<std::uint64_t> GgufNumber(const GgufKeys& keys, std::string_view key);

struct GgufFile {
  std::string name;  // without its directory
  std::filesystem::path path;
  std::int64_t mtime_ns = 0;
  GgufHeader header;
};

// Whether a path is a regular file that is called .gguf or begins as a GGUF file.
bool IsGgufFile(const std::filesystem::path& path);

// The file, or all splits of the model of which it is one, in their order. The keys are those of
// the first. Throws Error: kBadInput as ReadGgufHeader, for a split that is missing, for splits
// that are not of one model, and for a tensor that two of them hold; kIo.
std::vector<GgufFile> OpenGgufFiles(const std::filesystem::path& path);

}  // namespace dsv3::formats
