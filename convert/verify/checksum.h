#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "convert/catalog/progress.h"
#include "convert/verify/verification.h"
#include "formats/io/file_system.h"

// `dsv3-verify checksum`: digests of a whole model directory, made and checked. docs/verify.md
// lists the kinds of findings.
namespace dsv3::convert {

struct CreateChecksumsRequest {
  std::filesystem::path directory;  // or a hub cache "models--org--name"
  bool overwrite = false;           // replace checksums that the files differ from
  std::filesystem::path output;     // where to write, made if need be; empty: in `directory`
  unsigned threads = 0;             // compute threads; 0: all processors
};

struct CreateChecksumsReport {
  // The check against the directory's earlier manifest or SHA256SUMS, empty where there is neither.
  // Its errors are why nothing was written, unless `overwrite` asked to go on.
  Verification verification;
  bool written = false;
  bool list_unreadable = false;  // there are checksums that cannot be read, or a part of them
  bool replaced = false;         // written, and the earlier checksums differed
  std::filesystem::path output;  // where the files were written; empty where none was
  bool kept_provenance = false;  // of an earlier manifest
  std::uint64_t files = 0;       // digested
  std::uint64_t bytes = 0;       // of those files
  std::uint64_t tensors = 0;
  std::string content_digest;  // see formats/manifest.h; empty where nothing was written
};

// Reads every file of the directory once and writes checkpoint.manifest.json, then SHA256SUMS,
// durably. Where there are checksums already, it checks them first, from the same pass; on a
// difference it writes nothing (written is false: exit code 1) unless `overwrite` is set. An
// earlier manifest's provenance is kept: recipe, options and source as they are, rules and sources
// for tensors whose digest is the same. With `output` the directory itself is not written to; the
// manifest in `output` is checked first, too, and SHA256SUMS lists the model's files alone, to be
// used from within the model. Whether the files can be written is tried before anything is read.
// Throws Error: kBadInput for what is not a directory, holds no
// file, has a file that cannot be listed (a dead link, a FIFO, a name that is not UTF-8) or a shard
// whose header cannot be read, or is not whole (see JudgeCompleteness); kUsage where a conversion
// is not finished, for a packed checkpoint, which has its digests in packed.json, or `output` is
// within `directory`, holds a model of its own, another's SHA256SUMS, or a manifest of other
// weights (the last two not with `overwrite`); kIo; kInterrupted.
CreateChecksumsReport CreateChecksums(const CreateChecksumsRequest& request,
                                      formats::FileSystem& file_system, ProgressSink& progress,
                                      const StopToken& stop);

struct CheckChecksumsRequest {
  std::filesystem::path directory;  // or a hub cache "models--org--name", or a GGUF file
  // A manifest, or a list of SHA-256 digests, to use instead of what is in the directory; may be
  // empty.
  std::filesystem::path manifest;
  // Of a packed checkpoint that holds differences: what it was packed against; empty: their tensors
  // are not decoded. In vain, also with `quick`, it is kUsage.
  std::filesystem::path base = {};
  bool quick = false;    // sizes and headers only
  unsigned threads = 0;  // compute threads; 0: all processors
};

struct CheckChecksumsReport {
  // What the files were compared with.
  enum class Basis { kManifest, kSha256Sums, kHubMetadata, kPacked };

  Verification verification;
  Basis basis = Basis::kManifest;
  // The file that was used ("checkpoint.manifest.json", "SHA256SUMS and 2 more lists", the path
  // given as `manifest`, a GGUF file's manifest), or for hub metadata the kinds of it
  // (".cache/huggingface/download/*.metadata").
  std::string basis_name;
  bool quick = false;
  std::uint64_t files = 0;    // compared
  std::uint64_t bytes = 0;    // read, tensors that were read again included
  std::uint64_t tensors = 0;  // that the basis lists; 0 where it lists files alone
  // Of these, of a packed checkpoint, those that were not decoded, for they need the base. Of what
  // holds them the file was compared.
  std::uint64_t not_decoded = 0;
};

// The name of a basis in JSON and text: "manifest", "sha256sums", "hub-metadata", "packed".
std::string_view BasisName(CheckChecksumsReport::Basis basis);

// Whether CheckChecksums finds something to compare the directory with, without looking at its
// files. A record that cannot be read counts: the check names it. Throws Error where there is no
// directory.
bool HasChecksums(const std::filesystem::path& directory);

// Compares the directory with the first of: `manifest`, its own manifest, lists of digests such as
// SHA256SUMS and NAME.sha256, hub metadata. Of a packed checkpoint that is packed.json, and the
// tensors are unpacked and compared, too: all of them with `base`, else those that need none.
// Every difference is a finding, and so is what makes the directory incomplete
// (JudgeCompleteness), whatever it is compared with. Whole files are hashed, and the tensors of a
// file only where its digest differs. Of a GGUF file, that file is compared, or all splits of its
// model, with `manifest`, its own manifest, or what names it in its directory; other files there
// are not looked at. Throws Error: kBadInput where there is nothing to compare
// with, `manifest` is not a manifest, or `base` is another one; kIo where the directory cannot be
// listed; kInterrupted.
CheckChecksumsReport CheckChecksums(const CheckChecksumsRequest& request, ProgressSink& progress,
                                    const StopToken& stop);

}  // namespace dsv3::convert
