#include "convert/verify/checksum_gguf.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/gguf_files.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> NamesOf(const fs::path& file) {
  std::string name = file.filename().string();
  std::optional<formats::GgufSplitName> split = formats::ParseGgufSplitName(name);
  if (!split) return {std::move(name)};
  std::vector<std::string> names;
  for (split->number = 1; split->number <= split->count; ++split->number) {
    names.push_back(formats::GgufSplitFileName(*split));
  }
  return names;
}

}  // namespace

GgufChecksums FindGgufChecksums(const fs::path& file, const fs::path& manifest) {
  GgufChecksums found;
  found.directory = fs::absolute(file).parent_path();
  const std::vector<std::string> names = NamesOf(file);
  std::error_code error;
  for (const std::string& name : names) {
    const fs::path path = found.directory / name;
    const std::uint64_t bytes = fs::file_size(path, error);
    if (!error) found.there.push_back({name, path, DirectoryFile::Kind::kFile, bytes});
  }
  const std::string own_name = formats::GgufManifestName(file.filename().string());
  const fs::path own = found.directory / own_name;
  const bool has_own = manifest.empty() && fs::is_regular_file(own, error);
  found.basis = FindChecksumBasis(found.directory, has_own ? own : manifest, /*with_hub=*/true);
  if (!found.basis) return found;
  if (has_own) {
    found.basis->name = own_name;
    for (auto& [name, expected] : found.basis->files) expected.record = own_name;
  }
  std::erase_if(found.basis->files, [&](const auto& expected) {
    return std::find(names.begin(), names.end(), expected.first) == names.end();
  });
  if (!found.basis->files.empty()) return found;
  if (!manifest.empty() || has_own) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {} does not list it; give the manifest that was written with it",
                            formats::ShownPath(file), formats::ShownPath(found.basis->name)),
                {file.string(), ""});
  }
  found.basis.reset();
  return found;
}

}  // namespace dsv3::convert
