#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "convert/job/source_deletion.h"
#include "formats/finding.h"
#include "formats/left_behind.h"
#include "quant/quality.h"

namespace dsv3::convert {

// A tensor in which something was counted.
struct TensorCount {
  std::string tensor;
  std::uint64_t count = 0;
};

// The quality of a quantised tensor's values.
struct TensorQuality {
  std::string tensor;
  quant::Quality quality;
};

struct OutputFileReport {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t tensors = 0;
  std::string sha256;  // empty with ChecksumMode::kNone, or in a dry run
  bool kept = false;   // finished by an earlier run
};

// Something that one recipe alone reports: names of tensors, one line in the text and a member in
// the JSON.
struct ReportFact {
  std::string member;  // of the JSON: "dropped"; empty: of the text alone
  std::string label;   // of the line: "dropped"
  std::string text;    // "3 tensors of MTP layers"; empty: no line
  std::vector<std::string> names;
  std::vector<std::string> lines = {};  // of the text, below the line: patterns of the names
};

struct ConversionReport {
  enum class Outcome {
    kConverted,
    kNothingToDo,
    kPlanned,   // dry run
    kPartDone,  // the files of this run are complete; other runs make the rest
  };
  Outcome outcome = Outcome::kConverted;
  std::uint64_t missing_files = 0;  // kPartDone: weight files that other runs are to make
  std::string recipe;               // "fp8-to-bf16", "bf16-to-fp8"
  // For the text, from the recipe: "Converted FP8 to BF16", and "FP8 to BF16" of its tensors.
  std::string title;
  std::string converted_text;
  std::filesystem::path last_file;  // the manifest, or packed.json
  // What readers are given: OUT; of several files beside each other (OneFileOutput) the first.
  std::filesystem::path made;
  std::uint64_t tensors = 0;  // in the output
  std::uint64_t converted_tensors = 0;
  std::uint64_t copied_tensors = 0;
  std::uint64_t side_files = 0;
  std::vector<formats::LeftBehind> left_behind;  // of the source, not copied; by name
  std::uint64_t source_bytes = 0;                // weights to read
  std::uint64_t output_bytes = 0;                // weight files, headers included
  std::vector<OutputFileReport> files;           // weight files, by name
  formats::Findings warnings;
  std::vector<TensorCount> nan_codes;   // FP8 NaN codes by tensor
  std::vector<TensorCount> bad_scales;  // with allow_bad_scales
  std::vector<std::string> all_zero;    // weight matrices of the output whose values are all zero
  // Of others, by tensor: see TensorRecord.
  std::vector<TensorCount> zero_runs;
  std::vector<TensorCount> zero_blocks;
  // Of all quantised tensors, by file and in file order; files that an earlier run finished
  // included. Empty in a dry run and where there was nothing to do.
  std::vector<TensorQuality> quality;
  bool has_original = false;             // whether `quality` compares with an original, too
  std::vector<std::string> already_fp8;  // weights that were FP8 and were copied with their scales
  std::vector<ReportFact> facts;         // of the recipe
  bool resumed = false;
  std::uint64_t kept_files = 0;
  // With delete_source_shards: the source shards that this run deleted or left; in a dry run, those
  // that a run would. Empty where there was nothing to do.
  std::vector<SourceDeletion> deletions;
  std::uint64_t freed_source_shards = 0;  // shards that were deleted, links included
  std::uint64_t freed_source_bytes = 0;
  double seconds = 0;               // of this run
  std::uint64_t bytes_read = 0;     // by this run
  std::uint64_t bytes_written = 0;  // by this run
  // Dry run:
  std::uint64_t disk_needed_bytes = 0;
  std::uint64_t disk_free_bytes = 0;
  std::uint64_t peak_memory_bytes = 0;  // estimated
  bool fits = true;                     // the disk has enough space
  bool fits_with_deletion = true;       // it has enough with delete_source_shards
};

}  // namespace dsv3::convert
