#pragma once

#include <string>

#include "convert/job/journal.h"
#include "convert/job/manifest.h"

// How two jobs on one output directory differ, in words for messages.
namespace dsv3::convert {

// Each member is empty where there is no such difference.
struct JobDifference {
  // "the command was dsv3-convert fp8-to-bf16, and is dsv3-reshard now"
  std::string command;
  // "--tp was 2, and is 4 now; --mtp was keep, and is drop now"
  std::string options;
  // "IN was /models/a, and is /models/b now"; empty also where the journal does not say what it
  // was.
  std::string input;
  // Of the first file of the source that differs: "tokenizer.json had 12 bytes, and has 14 bytes
  // now, and 2 more files differ".
  std::string files;
  bool only_times = false;  // of `files`: sizes and headers are the same

  // Those that are there, parted by "; ".
  std::string Text() const;
};

// The difference between the job that a journal describes and this one. The inputs count only
// where the files differ: a checkpoint may be moved.
JobDifference CompareJobs(const JournalHead& before, const JournalHead& now);

// The job of a finished output, as far as its manifest records it, and this job in the same form:
// without side files, times and IN.
JournalHead HeadOf(const formats::ManifestJob& job);

}  // namespace dsv3::convert
