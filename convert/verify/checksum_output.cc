#include "convert/verify/checksum_output.h"

#include <algorithm>
#include <system_error>

#include <fmt/format.h>

#include "convert/packing/packed_manifest.h"
#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/io/durable_file.h"
#include "formats/io/existence.h"
#include "formats/message_text.h"
#include "formats/rank_layout.h"
#include "formats/shard_index.h"
#include "formats/sums_file.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Refuse(const fs::path& path, std::string_view problem) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: {}", formats::ShownPath(path), problem),
              {path.string(), ""});
}

// Checksums of one model among the files of another would be taken for that one's.
void RequireNoModel(const fs::path& output) {
  std::error_code error;
  for (fs::directory_iterator entry(output, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (ContainerOf(name) == nullptr && name != formats::kShardIndexName &&
        name != formats::kRankLayoutName && name != kPackedManifestName) {
      continue;
    }
    Refuse(output,
           fmt::format("this directory holds another model ({}), and the checksums would be "
                       "taken for those of its files; give --output a directory without "
                       "one, and check a copy with `dsv3-verify checksum check --manifest`",
                       formats::ShownPath(name)));
  }
}

}  // namespace

bool HasEarlierChecksums(const CreateChecksumsRequest& request, const fs::path& directory) {
  std::error_code ignored;
  return !request.output.empty() && !fs::equivalent(request.output, directory, ignored) &&
         formats::EntryExists(request.output / formats::kManifestName);
}

fs::path PrepareChecksumOutput(const CreateChecksumsRequest& request, const fs::path& directory,
                               formats::FileSystem& file_system,
                               std::optional<formats::NewDirectories>& made) {
  fs::path output = directory;
  if (!request.output.empty()) {
    const fs::path wanted = fs::weakly_canonical(fs::absolute(request.output));
    const fs::path model = fs::weakly_canonical(directory);
    const fs::path within = wanted.lexically_relative(model);
    if (within != "." && !within.empty() && *within.begin() != "..") {
      Refuse(request.output,
             "this directory lies within the model, of which the checksums would become a part; "
             "give --output a directory elsewhere");
    }
    if (within != ".") {
      RequireNoModel(request.output);
      output = request.output;
    }
    made.emplace(file_system, wanted);
  }
  if (output != directory && !request.overwrite &&
      !formats::EntryExists(output / formats::kManifestName) &&
      formats::EntryExists(output / formats::kSumsName)) {
    Refuse(output / formats::kSumsName,
           "there is such a file without a manifest beside it, so it is not known which files it "
           "describes; give --output an empty directory, or --overwrite to replace the file");
  }
  try {
    formats::RequireWritable(file_system, output / formats::kManifestName);
    formats::RequireWritable(file_system, output / formats::kSumsName);
  } catch (const Error& error) {
    if (output != directory) throw;
    throw Error(error.code(),
                error.message() + "; --output DIR writes the checksums to another directory",
                error.place());
  }
  return output;
}

bool IsOfOtherWeights(const formats::Manifest& manifest, const std::vector<WeightFile>& files) {
  bool lists_weights = false;
  for (const formats::ManifestFile& listed : manifest.files) {
    if (ContainerOf(listed.name) == nullptr) continue;
    lists_weights = true;
    const auto there = std::find_if(files.begin(), files.end(), [&](const WeightFile& file) {
      return file.name == listed.name;
    });
    if (there == files.end()) continue;
    const bool is_same = listed.header_xxh3.empty() ? there->bytes == listed.bytes
                                                    : there->header_digest == listed.header_xxh3;
    // A header that is damaged says nothing.
    if (is_same || there->header_digest.empty()) return false;
  }
  return lists_weights;
}

void RefuseOtherWeights(const fs::path& output, const fs::path& directory) {
  const fs::path manifest = output / formats::kManifestName;
  Refuse(manifest, fmt::format("it describes other weights: no weight file of {} has a header that "
                               "it lists; give --output another directory where it is of another "
                               "model, or --overwrite where it is of this one before a change that "
                               "you made",
                               formats::ShownPath(directory)));
}

void WriteWhereNew(formats::FileSystem& file_system, const fs::path& path,
                   const std::string& content) {
  std::error_code error;
  if (fs::is_regular_file(fs::symlink_status(path, error)) &&
      fs::file_size(path, error) == content.size() && !error &&
      formats::ReadSmallFile(path, content.size()) == content) {
    return;
  }
  formats::WriteFileDurably(file_system, path, content);
}

}  // namespace dsv3::convert
