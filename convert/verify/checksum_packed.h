#pragma once

#include <cstdint>
#include <filesystem>

#include "convert/catalog/progress.h"
#include "convert/packing/packed_manifest.h"
#include "formats/finding.h"

// The tensors of a packed checkpoint; an internal part of checksum.h.
namespace dsv3::convert {

struct PackedComparison {
  formats::Findings findings;     // by file, then in the order of the data
  std::uint64_t bytes_read = 0;   // about
  std::uint64_t not_decoded = 0;  // tensors that need the base, where none is given
};

// Unpacks tensors, chunk by chunk, and compares their digests with those that packed.json has: what
// does not unpack is "damaged-tensor", what comes out otherwise "wrong-tensor-digest". `base` is
// the checkpoint that tensors were packed against; empty: those that need it are passed over. So
// are files that are missing or of another size. Throws Error: kBadInput, naming the tensor, for
// another base than that, and as BaseTensors does; kIo, kInterrupted.
PackedComparison ComparePackedTensors(const PackedManifest& manifest,
                                      const std::filesystem::path& directory,
                                      const std::filesystem::path& base, unsigned threads,
                                      ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
