#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "convert/verify/verification.h"
#include "formats/manifest.h"

// `dsv3-verify provenance`: which source bytes an output came from, and which rule made it, from
// manifests alone.
namespace dsv3::convert {

struct ProvenanceRequest {
  std::filesystem::path directory;
  std::filesystem::path source;  // a directory with a manifest to compare with; may be empty
};

// Whether a recorded source tensor is the one in the given source's manifest.
enum class SourceMatch {
  kNotCompared,  // no source was given, or the other of two
  kMatches,      // same name and digest
  kDiffers,      // same name, another digest
  kUnknown,      // the source's manifest has no such tensor
};
// "not-compared", "matches", "differs", "unknown".
std::string_view SourceMatchName(SourceMatch match);

struct ProvenanceSource {
  formats::ManifestSource source;
  SourceMatch match = SourceMatch::kNotCompared;
};

struct ProvenanceTensor {
  std::string name;
  std::string file;
  std::string xxh3;
  std::string rule;  // empty where the manifest records none
  std::vector<ProvenanceSource> sources;
};

struct ProvenanceReport {
  Verification verification;  // check "provenance"; "source-differs" and so on
  std::string recipe;         // empty when no conversion made the directory
  std::string options;        // a JSON object
  std::string content_digest;
  std::vector<formats::ManifestSourceFile> source_files;
  std::vector<ProvenanceTensor> tensors;                     // in file order
  std::vector<std::pair<std::string, std::uint64_t>> rules;  // rule → tensors, sorted
  // Of the source's manifest; empty where none was given.
  std::string source_recipe;
  std::string source_content_digest;
  std::uint64_t matching = 0;  // recorded sources by SourceMatch
  std::uint64_t differing = 0;
  std::uint64_t unknown = 0;
  // Recorded without a digest, because only a slice of them was taken; not compared.
  std::uint64_t without_digest = 0;
};

// Reads manifests only. A recorded source that differs is an error finding ("source-differs"), one
// that is unknown a warning ("source-unknown"), as is a directory whose manifest records no
// provenance ("no-provenance"); what JudgeCompleteness says of the directory is added, where
// there are weights in it. Throws
// Error: kBadInput where a directory has no manifest or one that cannot be read, or a conversion
// into it is not finished; kIo.
ProvenanceReport TraceProvenance(const ProvenanceRequest& request);

}  // namespace dsv3::convert
