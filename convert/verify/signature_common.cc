#include "convert/verify/signature_common.h"

#include <system_error>

#include <fmt/format.h>

#include "convert/verify/signature.h"
#include "formats/checkpoint_files.h"
#include "formats/checkpoint_location.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {

namespace fs = std::filesystem;

IgnoredPaths UnsignedPaths(const fs::path& directory, const fs::path& signature) {
  IgnoredPaths paths = {".cache/huggingface", ".git",
                        ".gitattributes",     ".github",
                        ".gitignore",         std::string(kSignatureName)};
  std::error_code error;
  // The file itself may not be there yet.
  const fs::path parent = fs::weakly_canonical(fs::absolute(signature, error).parent_path(), error);
  const fs::path within = parent.lexically_relative(fs::weakly_canonical(directory, error));
  if (error || within.empty() || *within.begin() == "..") return paths;
  paths.insert((within / signature.filename()).lexically_normal().generic_string());
  return paths;
}

fs::path ModelDirectory(const fs::path& model) {
  return formats::LocateCheckpoint(model).directory;
}

fs::path SignaturePath(const fs::path& given, const fs::path& model) {
  if (!given.empty()) return given;
  const formats::CheckpointLocation location = formats::LocateCheckpoint(model);
  if (!location.file_name) return location.directory / kSignatureName;
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{}: this is a single file, so say where its signature is with --signature FILE",
                  formats::ShownPath(model)),
      {.file = model.string(), .tensor = {}});
}

std::string ReadKeyFile(const fs::path& path) {
  constexpr std::uint64_t kLongestKey = 64 << 10;
  return formats::ReadSmallFile(path, kLongestKey);
}

}  // namespace dsv3::convert
