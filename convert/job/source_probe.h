#pragma once

#include <cstdint>
#include <optional>

#include "convert/catalog/progress.h"
#include "convert/job/manifest.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// Looks whether a source may be the one that a finished output was made of: two fine-tunings of one
// model have the same names, shapes and headers. Of every file of the source one tensor is compared
// with the digest that the output's manifest records of it, the largest one of up to 1 MiB or the
// smallest, 256 MiB at most together. Returns the first tensor that has other bytes, as its
// position in the catalog. Files that are not there are passed over, and so are tensors of rank
// shards, of which the manifest has digests of parts. Throws Error (kIo, kInterrupted).
std::optional<std::uint32_t> FindOtherTensor(const ManifestSummary& manifest, SourceFiles& sources,
                                             const StopToken& stop);

}  // namespace dsv3::convert
