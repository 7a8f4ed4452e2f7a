#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/dtype.h"
#include "formats/shape.h"

// checkpoint.manifest.json: the files and tensors of a directory with their digests, and of which
// sources and by which rule a conversion made them; docs/manifest.md has the schema. It holds
// nothing that differs between two runs of one job. Digests are lowercase hex; empty ones are
// absent.
namespace dsv3::formats {

inline constexpr std::string_view kManifestName = "checkpoint.manifest.json";
// The recipe of a manifest that no conversion wrote.
inline constexpr std::string_view kNoRecipe = "none";
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{1} << 30;

// A source tensor that a rule took.
struct ManifestSource {
  // The source that it is from: empty for the checkpoint that was converted, "original" for the one
  // beside it whose scales were taken.
  std::string checkpoint;
  std::string name;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::string xxh3;
  std::string sha256;
  // Its file, where the source is a directory of rank shards, whose files share names of tensors.
  std::string file = {};
};

struct ManifestTensor {
  std::string name;
  std::string file;
  Dtype dtype = Dtype::kU8;
  Shape shape;
  std::string xxh3;
  std::string sha256;
  std::uint64_t nan_codes = 0;  // FP8 NaN codes that became BF16 NaNs
  // The rule that made it; empty where no conversion recorded one.
  std::string rule;
  std::vector<ManifestSource> sources;
};

struct ManifestFile {
  std::string name;  // relative, '/' between components; never leads out of the directory
  std::uint64_t bytes = 0;
  std::string sha256;
  // Of the length prefix and header of a safetensors file.
  std::string header_xxh3;
  // Whether the manifest's recipe made the file: false for a file that `checksum create` found
  // added or changed beside a conversion's output.
  bool by_recipe = true;
};

struct ManifestSourceFile {
  std::string checkpoint;  // as ManifestSource::checkpoint
  std::string name;
  std::uint64_t bytes = 0;
  std::string header_xxh3;
};

// The part that names the job.
struct ManifestJob {
  std::string recipe{kNoRecipe};
  // Option or member path → its value as JSON text, in the order of the file.
  std::vector<std::pair<std::string, std::string>> options;
  std::vector<std::pair<std::string, std::string>> removed_config;
  // Tensors of the source that nothing of the output is made of: pattern of names → how many.
  std::vector<std::pair<std::string, std::uint64_t>> dropped;
  std::vector<ManifestSourceFile> source_files;
};

struct Manifest {
  ManifestJob job;
  std::vector<ManifestFile> files;      // sorted by name
  std::vector<ManifestTensor> tensors;  // by file, then in the order of their data
  std::string content_digest;

  const ManifestFile* FindFile(std::string_view name) const;  // nullptr when there is none
};

// The job as the manifest spells it; equal jobs give equal bytes.
std::string ManifestJobText(const ManifestJob& job);

// Writes a manifest piece by piece into a string: the job, all files, all tensors, Finish. The
// content digest is computed on the way.
class ManifestWriter {
 public:
  explicit ManifestWriter(std::string_view job_text);
  // Makes room for so many tensors and bytes of text, so that a manifest of hundreds of MB is not
  // held twice while it grows.
  void Reserve(std::size_t tensors, std::size_t bytes);
  void AddFile(const ManifestFile& file);
  void AddTensor(const ManifestTensor& tensor);
  std::string Finish();
  // After Finish.
  const std::string& content_digest() const { return content_digest_; }

 private:
  void AddLine(std::string_view line);
  void BeginTensors();

  std::string text_;
  bool first_ = true;
  bool in_tensors_ = false;
  std::vector<std::string> content_lines_;
  std::string content_digest_;
};

std::string SerializeManifest(const Manifest& manifest);

// Parses a manifest. Members that it does not know are skipped; what SerializeManifest makes of
// the result has the bytes of a manifest that this version wrote. Rejects: another format or
// version, missing members, duplicate members, file names that lead out of the directory, files
// listed twice or tensors of files that are not listed, digests that are not lowercase hex of their
// length, tensors without a byte size. `file` is the name for errors. Throws Error (kBadInput).
Manifest ParseManifest(std::string_view text, const std::string& file);

// Digest of the tensors alone, whatever their files, order and headers: SHA-256 over one line
// ["name","dtype",[shape],"xxh3_128"] (compact JSON, UTF-8, a newline behind each) for every
// tensor, the lines sorted by their bytes.
std::string ContentDigest(std::span<const ManifestTensor> tensors);

}  // namespace dsv3::formats
