#pragma once

#include <optional>
#include <string>

#include "convert/catalog/progress.h"
#include "convert/job/manifest.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/stream/source_files.h"

namespace dsv3::convert {

// A tensor that is not the one that a finished output was made of.
struct OtherTensor {
  std::string name;
  std::string file;  // as messages show it
  bool of_base = false;
};

// Looks whether a source may be the one that a finished output was made of: two fine-tunings of one
// model have the same names, shapes and headers. Of every file of the source one tensor is compared
// with the digest that the output's manifest records of it, the largest one of up to 1 MiB or the
// smallest, 256 MiB at most together. Where the manifest has no digests of whole tensors in files
// that are there, as of rank shards and training checkpoints, such a tensor of every file of the
// output is made again and compared. Files that are not there are passed over. Throws Error (kIo,
// kInterrupted).
std::optional<OtherTensor> FindOtherTensor(const ManifestSummary& manifest, const Plan& plan,
                                           const ModelTensors& source, SourceFiles& sources,
                                           const StopToken& stop);

}  // namespace dsv3::convert
