#pragma once

#include <string>
#include <vector>

namespace dsv3::formats {

enum class Severity {
  kWarning,  // suspicious or nonconforming; the meaning is still clear
  kError,    // a conversion must refuse this checkpoint
};

// One thing that is wrong with a checkpoint. Functions that judge a checkpoint return all findings
// as values; the caller decides what to do.
struct Finding {
  Severity severity = Severity::kError;
  // Stable kebab-case identifier of the kind, such as "missing-shard"; docs list them all.
  std::string kind;
  std::string file;    // path relative to the checkpoint, empty when none is concerned
  std::string tensor;  // empty when none is concerned
  // For a person: names what was expected and found, and what to do.
  std::string message;
  // Set where the file's header or the index itself could not be read, so that even a listing of
  // the checkpoint would be incomplete.
  bool unreadable = false;
};

using Findings = std::vector<Finding>;

}  // namespace dsv3::formats
