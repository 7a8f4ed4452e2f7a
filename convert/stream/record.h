#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quant/quality.h"

namespace dsv3::convert {

// Digests of one stream of bytes, lowercase hex; sha256 is empty unless it was asked for.
struct Digests {
  std::string xxh3;
  std::string sha256;
};

// The digests and the quality that were found while a tensor was written.
struct TensorRecord {
  Digests output;
  // Of the streamed source tensor; for a by-product, of its maker's. Empty where nothing was read.
  Digests streamed;
  std::uint64_t nan_codes = 0;
  bool all_zero = false;  // a weight matrix (IsWeightMatrix) whose values are all zero, of any sign
  // Of a weight matrix that is not all zero: runs that are holes (KindOfZeroRun), and blocks of an
  // FP8 weight that are zero under a scale that says otherwise. Where there are such blocks, runs
  // are not counted.
  std::uint64_t zero_runs = 0;
  std::uint64_t zero_blocks = 0;
  // Of a quantised tensor, added in the order of its value.
  // nullptr for others, of which there may be half a million.
  std::shared_ptr<quant::Quality> quality = nullptr;
};

// The digests that were found while a file was written: enough for the manifest, and for a later
// run to check that the file is finished.
struct FileRecord {
  std::string name;
  std::uint64_t bytes = 0;
  // sha256 of the whole file, or with checksums off its xxh3.
  Digests file;
  std::vector<TensorRecord> tensors;  // in the plan's order; empty for side files
  // Of a packed file: the digest of the file that is packed in it. Empty for others.
  Digests original = {};
  // XXH3-128, hex, of the bases of its tensors (PlannedTensor::base), in the plan's order; empty
  // where a tensor has none, and no element where none has.
  std::vector<std::string> bases = {};
};

}  // namespace dsv3::convert
