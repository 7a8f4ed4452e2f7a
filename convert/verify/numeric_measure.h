#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/catalog.h"
#include "convert/catalog/progress.h"
#include "convert/model/scale_fmt.h"
#include "convert/model/zero_blocks.h"
#include "convert/model/zero_runs.h"
#include "convert/stream/source_files.h"
#include "convert/stream/value_scan.h"
#include "convert/verify/code_range.h"
#include "convert/verify/numeric.h"
#include "convert/verify/value_checkpoint.h"

// The reading of all values; an internal part of numeric.h.
namespace dsv3::convert {

// What is to be known of a tensor beyond the usual.
struct MeasureWish {
  bool histogram = false;
  bool digests = false;
  bool zero_runs = false;
};

// What the values of a tensor are like. Positions of elements are row-major.
struct Measurement {
  std::uint64_t values = 0;
  std::uint64_t finite = 0;
  std::uint64_t nans = 0;
  std::uint64_t infinities = 0;
  BadScales bad_scales;  // of a scale; NaN and infinite ones are among these alone
  std::uint64_t first_nan = UINT64_MAX;
  std::uint64_t first_infinity = UINT64_MAX;
  double absmax = 0;
  double rms = 0;
  bool constant = true;  // all values have the same bits
  double first = 0;      // that value, if so
  std::optional<MagnitudeHistogram> histogram;
  // XXH3-128 of each panel's bytes, in order, where digests are wished for.
  std::vector<std::string> digests;
  CodesOutOfRange codes;           // of a weight whose form has a range
  ScaleSignificands significands;  // of a scale
  ZeroBlockCount zero_blocks;      // of a weight with a scale
  std::uint64_t vanished = 0;      // values of a weight whose scale is kLeastE8M0, but for zeros
  std::vector<ZeroRun> zero_runs;  // in order, where they are wished for
};

// Elements between two places where a tensor is cut for sums and digests; only its size decides.
std::uint64_t PanelElements(std::uint64_t elements);

// Reads every tensor of the checkpoint once (scales twice: with their weights, too). `wishes` and
// the result are by position in the catalog; 6-bit types stay unmeasured, with values = 0. The
// result does not depend on threads or memory. Throws Error: kIo, kBadInput, kInterrupted.
std::vector<Measurement> MeasureAll(const ValueCheckpoint& checkpoint,
                                    const std::vector<MeasureWish>& wishes, unsigned threads,
                                    std::uint64_t memory_bytes, SourceFiles& sources,
                                    ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
