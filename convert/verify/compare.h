#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "convert/catalog/progress.h"
#include "convert/model/quantized_form.h"
#include "convert/verify/verification.h"
#include "formats/shape.h"

namespace dsv3::convert {

struct CompareRequest {
  std::filesystem::path a;  // each see OpenModel
  std::filesystem::path b;
  // Of both, see OpenOptions; unused is kUsage.
  std::filesystem::path config = {};
  std::filesystem::path base = {};
  double atol = 0;                 // finite and not negative, both
  double rtol = 0;                 // of |b|
  unsigned threads = 1;            // compute threads, at least 1
  std::uint64_t memory_bytes = 0;  // bound for buffers; 0: kDefaultMemoryBytes
};

enum class Comparison {
  kIdenticalBytes,   // dtype and bytes, and those of the scale; never of blocks in GGUF files
  kIdenticalValues,  // all values equal
  kWithinTolerance,  // |a − b| <= atol + rtol × |b| everywhere (numpy's allclose)
  kDifferent,
  kDifferentShape,  // nothing was compared
  kOnlyInA,
  kOnlyInB,
};

// "identical-bytes", "identical-values", "within-tolerance", "different", "different-shape",
// "only-in-a", "only-in-b".
std::string_view ComparisonName(Comparison comparison);

// What differs between a and b, element by element. NaNs are equal to each other whatever their
// bits, −0 to +0, infinities of one sign to each other.
struct DifferenceStatistics {
  std::uint64_t elements = 0;
  std::uint64_t differing = 0;            // elements whose values differ at all
  std::uint64_t beyond_tolerance = 0;     // of those
  std::uint64_t nonfinite_differing = 0;  // of those differing, with NaN or infinity on one side or
                                          // both; they take part in nothing below
  double max_abs = 0;                     // max |a − b|
  double max_relative = 0;                // max |a − b| / |b| where b is not zero
  double rmse = 0;                        // root of the mean (a − b)²
  double relative = 0;  // root of sum (a − b)² / sum b²; 0 when nothing differs, infinite
                        // when b is all zero
  // The first differing element in row-major order, and its values.
  std::uint64_t first_element = 0;
  double first_a = 0;
  double first_b = 0;
};

struct ComparedTensor {
  std::string name;
  Comparison comparison = Comparison::kIdenticalBytes;
  std::string file_a;  // empty where the tensor is only in the other
  std::string file_b;
  std::string dtype_a;  // of a GGUF file the type, as NumericTensor::dtype
  std::string dtype_b;
  formats::Shape shape_a;
  formats::Shape shape_b;
  formats::Shape value_shape;  // of a's values: that of the weight where a holds codes
  // Whether either side holds codes of a form that is not decoded. Then codes were compared: the
  // statistics count those that differ, and their errors are infinite.
  bool codes = false;
  std::string scale_a;  // the scale that went into the values; empty where there is none
  std::string scale_b;
  DifferenceStatistics statistics;  // of those that were compared
};

struct CompareCounts {
  std::uint64_t identical_bytes = 0;
  std::uint64_t identical_values = 0;
  std::uint64_t within_tolerance = 0;
  std::uint64_t different = 0;  // in values or shape
  std::uint64_t only_in_a = 0;
  std::uint64_t only_in_b = 0;
};

struct CompareReport {
  // check is "compare"; docs/verify.md lists the kinds of the findings.
  Verification verification;
  std::filesystem::path directory_a;  // absolute
  std::filesystem::path directory_b;
  CompareCounts counts;
  std::vector<ComparedTensor> tensors;  // sorted by name
  // Positions in `tensors` of those that were compared and differ, the largest `relative` first
  // (those with differing NaNs and infinities before all others).
  std::vector<std::uint32_t> worst;
  // The forms of weights that conversions do not read.
  std::vector<FormCount> forms_a;
  std::vector<FormCount> forms_b;
  std::uint64_t bytes_read = 0;  // of both
};

// Compares two checkpoints tensor by tensor, whatever their shards and dtypes. Values are those in
// float32: an FP8 weight's are float(code) × scale, rounded to BF16 where the other side is BF16;
// F64 and integers are compared as they are. A scale belongs to its weight and is compared through
// it wherever the other side has the weight in usable form; else it is a tensor like any other. The
// report does not depend on threads or memory. Throws Error: kUsage for tolerances that are
// negative, NaN or infinite; kBadInput for a checkpoint that is contradictory or that cannot be
// read, kIo, kInterrupted.
CompareReport CompareCheckpoints(const CompareRequest& request, ProgressSink& progress,
                                 const StopToken& stop);

}  // namespace dsv3::convert
