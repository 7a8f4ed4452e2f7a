#pragma once

#include <cstdint>
#include <filesystem>

#include "convert/catalog/progress.h"
#include "convert/packing/packed_manifest.h"
#include "formats/finding.h"

// The tensors of a packed checkpoint; an internal part of checksum.h.
namespace dsv3::convert {

struct PackedComparison {
  formats::Findings findings;    // by file, then in the order of the data
  std::uint64_t bytes_read = 0;  // about
};

// Unpacks every tensor that needs no base, chunk by chunk, and compares its digest with the one
// that packed.json has: what does not unpack is "damaged-tensor", what comes out otherwise
// "wrong-tensor-digest". Files that are missing or of another size are passed over. Throws Error:
// kIo, kInterrupted.
PackedComparison ComparePackedTensors(const PackedManifest& manifest,
                                      const std::filesystem::path& directory, unsigned threads,
                                      ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
