#include "convert/open/listed_files.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "convert/open/file_fault.h"
#include "convert/open/packed_model.h"
#include "convert/open/rank_directory.h"
#include "convert/packing/packed_manifest.h"
#include "formats/error.h"
#include "formats/io/dead_link.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

namespace fs = std::filesystem;
using formats::Finding;
using formats::Findings;

std::string MessageOfMissing(const fs::path& directory, const std::string& name) {
  const std::string dead = formats::DeadLinkProblem(directory / name);
  return fmt::format("{}: {} lists it, but {}; get it again", formats::ShownPath(name),
                     kPackedManifestName, dead.empty() ? "there is no such file" : "it is " + dead);
}

}  // namespace

Findings FindMissingRankFiles(const fs::path& directory) {
  Findings faults;
  try {
    OpenRankDirectory(directory, faults);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return {FileFault("unreadable-index", formats::kRankLayoutName, error.message())};
  }
  std::erase_if(faults, [](const Finding& fault) {
    return fault.kind != "missing-shard" && fault.kind != "wrong-size";
  });
  return faults;
}

Findings FindMissingPackedFiles(const fs::path& directory) {
  PackedManifest manifest;
  try {
    manifest = ReadPackedManifest(directory);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return {FileFault("unreadable-index", kPackedManifestName, error.message())};
  }
  Findings findings;
  for (const PackedManifestFile& file : manifest.files) {
    const std::string name = file.packed ? file.PackedName() : file.name;
    const std::uint64_t bytes = file.packed ? file.packed_bytes : file.bytes;
    std::error_code error;
    if (!fs::is_regular_file(directory / name, error)) {
      findings.push_back(FileFault("missing-shard", name, MessageOfMissing(directory, name)));
      continue;
    }
    const std::uintmax_t found = fs::file_size(directory / name, error);
    if (!error && found == bytes) continue;
    findings.push_back(FileFault(
        "wrong-size", name,
        fmt::format("{}: the file has {}, but {} says {}; it was cut off or replaced, get it "
                    "again",
                    formats::ShownPath(name), formats::ExactBytes(found), kPackedManifestName,
                    formats::ExactBytes(bytes))));
  }
  return findings;
}

}  // namespace dsv3::convert
