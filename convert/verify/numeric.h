#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/layouts/stacks.h"
#include "convert/model/quantized_form.h"
#include "convert/verify/verification.h"
#include "formats/shape.h"

namespace dsv3::convert {

struct NumericRequest {
  std::filesystem::path input;  // see OpenModel
  // See OpenOptions.
  std::filesystem::path config = {};
  std::optional<Stack> from = std::nullopt;
  std::filesystem::path base = {};
  unsigned threads = 1;            // compute threads, at least 1
  std::uint64_t memory_bytes = 0;  // bound for buffers; 0: kDefaultMemoryBytes
  // Tensors to make histograms of: '*' matches any characters, '?' one. Empty: none.
  std::string histogram;
};

// How the magnitudes of a tensor's finite values are distributed.
struct MagnitudeHistogram {
  std::uint64_t zeros = 0;  // both signs
  // floor(log2 |x|) → how many values; only bins that are not empty.
  std::map<int, std::uint64_t> bins;
};

// The values of one tensor: those of an FP8 weight with usable scales are float(code) × scale,
// rounded to float; all others are as stored. Codes of a form that is not decoded have no values
// here. absmax and rms are over the finite ones.
struct NumericTensor {
  std::string name;
  std::string file;
  std::string dtype;  // of a GGUF file the type: "Q8_0" (GgufTypesOf)
  formats::Shape shape;
  bool measured = false;  // false for 6-bit types and codes whose values are not decoded
  bool scaled = false;    // an FP8 weight whose values have their scale
  bool is_scale = false;  // the scale of such a weight
  std::uint64_t values = 0;
  std::uint64_t nans = 0;        // as stored: FP8 NaN codes whatever the scale
  std::uint64_t infinities = 0;  // products that exceed float included
  std::uint64_t bad_scales = 0;  // of a scale: NaN, infinite, zero or negative ones
  double absmax = 0;
  double rms = 0;  // relative error below 1e-5
  std::optional<MagnitudeHistogram> histogram;
};

struct NumericReport {
  // check is "numeric"; docs/verify.md lists the kinds of the findings.
  Verification verification;
  std::filesystem::path directory;     // the one that holds the files; absolute
  std::vector<NumericTensor> tensors;  // in the order of the files and their data
  // The forms of weights that conversions do not read. Of codes that are not decoded only this is
  // judged: whether all of them are zero.
  std::vector<FormCount> forms;
  std::uint64_t bytes_read = 0;  // of weights and scales
};

// Reads every weight once and judges its values. Findings: what keeps a tensor from being read or
// given its scale (of files, index, config and scales; errors only), then "nan", "infinity",
// "bad-scale", "zero-blocks", "zero-run" and "mtp-copy-differs" (errors), "all-zero" (an error of a
// weight matrix unless its scales are those of zeros or its whole expert is zero, else a warning),
// "zero-rows", "constant", "outlier" and "scale-fmt-contradiction" (warnings). The report does not
// depend on threads or memory. Throws Error: kUsage or kBadInput where there is nothing to judge,
// kIo, kInterrupted.
NumericReport VerifyNumeric(const NumericRequest& request, ProgressSink& progress,
                            const StopToken& stop);

}  // namespace dsv3::convert
