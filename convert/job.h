#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "convert/execute/progress.h"
#include "formats/finding.h"
#include "formats/io/file_system.h"
#include "quant/quality.h"
#include "quant/quantize.h"

// A conversion from the user's side: a request goes in, a report comes out. Nothing here prints.
namespace dsv3::convert {

class WorkSharing;  // execute/work_sharing.h

enum class ChecksumMode { kSha256, kNone };

// How to run; nothing here changes an output byte except what the manifest holds
// (checksum, tensor_sha256).
struct RunOptions {
  unsigned threads = 0;            // compute threads; 0: all processors
  std::uint64_t memory_bytes = 0;  // bound for tile buffers; 0: the default, 160 MiB
  ChecksumMode checksum = ChecksumMode::kSha256;
  bool tensor_sha256 = false;
  bool overwrite = false;
  bool dry_run = false;
  bool delete_source_shards = false;
  // --part i/n: this run makes the i-th of n shares of the weight files and leaves the rest to
  // others; without checks of the whole, which --finish makes.
  struct Part {
    std::uint64_t index = 0;
    std::uint64_t count = 1;
  };
  std::optional<Part> part;
  bool finish = false;  // --finish: all parts are there; completes the job
  // The processes that share the run; nullptr: there is this one alone. Not owned.
  WorkSharing* sharing = nullptr;
};

struct Fp8ToBf16Options {
  bool allow_bad_scales = false;
};

// How the scale of a weight X is called.
enum class ScaleNaming {
  kScaleInv,     // X_scale_inv: DeepSeek up to V3.2, transformers
  kScale,        // Y.scale for X = Y.weight: DeepSeek V4
  kWeightScale,  // X_scale: compressed-tensors
};

// --block: blocks of a shape, or one scale a row or a tensor.
struct QuantizeBlock {
  quant::BlockForm form = quant::BlockForm::kBlock;
  quant::BlockShape shape;  // of kBlock
  friend bool operator==(const QuantizeBlock&, const QuantizeBlock&) = default;
};

struct Bf16ToFp8Options {
  // What is not given is DeepSeek's: recipe deepseek, F32 scales for 128 × 128 blocks, named
  // weight_scale_inv. With `scales_from` it is as there.
  std::optional<quant::QuantizeRecipe> recipe;
  std::optional<quant::ScaleFmt> scale_fmt;
  std::optional<QuantizeBlock> block;
  std::optional<ScaleNaming> scale_name;  // kScaleInv or kScale
  // Shell globs over whole tensor names: what is quantised beyond what the model's rules tell, and
  // what is not; the latter win.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  quant::Nonfinite nonfinite = quant::Nonfinite::kReport;
  std::filesystem::path scales_from;  // the original FP8 checkpoint; empty: none
};

struct ConversionRequest {
  std::filesystem::path input;
  std::filesystem::path output;
  // Of the command that is run.
  Fp8ToBf16Options fp8_to_bf16;
  Bf16ToFp8Options bf16_to_fp8;
  RunOptions run;
};

// A tensor in which something was counted.
struct TensorCount {
  std::string tensor;
  std::uint64_t count = 0;
};

// What quantising a tensor did to its values.
struct TensorQuality {
  std::string tensor;
  quant::Quality quality;
};

struct OutputFileReport {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t tensors = 0;
  std::string sha256;  // empty with ChecksumMode::kNone, or in a dry run
  bool kept = false;   // complete from an earlier run
};

struct ConversionReport {
  enum class Outcome {
    kConverted,
    kNothingToDo,
    kPlanned,   // dry run
    kPartDone,  // what this run was to make is there; other runs make the rest
  };
  Outcome outcome = Outcome::kConverted;
  std::uint64_t missing_files = 0;  // kPartDone: weight files that other runs are to make
  std::string recipe;               // "fp8-to-bf16", "bf16-to-fp8"
  std::uint64_t tensors = 0;        // in the output
  std::uint64_t converted_tensors = 0;
  std::uint64_t copied_tensors = 0;
  std::uint64_t side_files = 0;
  std::uint64_t source_bytes = 0;       // weights to read
  std::uint64_t output_bytes = 0;       // weight files, headers included
  std::vector<OutputFileReport> files;  // weight files, by name
  formats::Findings warnings;
  std::vector<TensorCount> nan_codes;   // FP8 NaN codes by tensor
  std::vector<TensorCount> bad_scales;  // with allow_bad_scales
  // Of all quantised tensors, by file and in file order; files kept from an earlier run included.
  // Empty in a dry run and where there was nothing to do.
  std::vector<TensorQuality> quality;
  std::vector<std::string> already_fp8;  // weights that were FP8 and were copied with their scales
  bool resumed = false;
  std::uint64_t kept_files = 0;
  std::uint64_t freed_source_shards = 0;
  double seconds = 0;               // of this run
  std::uint64_t bytes_read = 0;     // by this run
  std::uint64_t bytes_written = 0;  // by this run
  // Dry run:
  std::uint64_t disk_needed_bytes = 0;
  std::uint64_t disk_free_bytes = 0;
  std::uint64_t peak_memory_bytes = 0;  // estimated
  bool fits = true;                     // the disk has what is needed
  bool fits_with_deletion = true;       // it has with delete_source_shards
};

// Runs `dsv3-convert fp8-to-bf16`. Throws Error with the code of design.md's table. When `stop` is
// requested it ends with kInterrupted, leaving what the same request continues from.
ConversionReport ConvertFp8ToBf16(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop);

// Runs `dsv3-convert bf16-to-fp8`, in the same way.
ConversionReport ConvertBf16ToFp8(const ConversionRequest& request, formats::FileSystem& fs,
                                  ProgressSink& progress, const StopToken& stop);

}  // namespace dsv3::convert
