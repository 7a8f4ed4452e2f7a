#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// The journals of an unfinished job, as far as a reader of its directory needs them: the form of
// their lines, and which files the job makes.
namespace dsv3::formats {

// The journal of a job; those of its parts and processes have this name and a suffix.
inline constexpr std::string_view kJournalName = ".dsv3-journal";
inline constexpr std::uint64_t kMaxJournalBytes = std::uint64_t{1} << 30;

// A line of a journal: the XXH3-128 of `text`, a blank, `text`, a newline. The digest shows a line
// that a crash cut off.
std::string DigestedLine(std::string text);
// Takes the next line off the front of `text` and returns it without digest and newline. Nothing,
// and `text` stays, where the line is not whole.
std::optional<std::string_view> TakeDigestedLine(std::string_view& text);

// The progress of a job whose journals are in a directory.
struct JobProgress {
  std::string journal;  // the name of the first journal that could be read
  std::string recipe;   // "fp8-to-bf16"
  // The command that makes the job, without OUT, as a shell takes it; empty in journals of earlier
  // versions.
  std::string command = {};
  std::uint64_t files = 0;      // that the whole job makes
  std::uint64_t completed = 0;  // of these
  std::uint64_t parts = 0;      // into which --part divides the job; 0: it is not divided
};

// Reads all journals of a directory. Nothing where there is none, or none with a whole first line
// of this version's form. Throws Error (kIo).
std::optional<JobProgress> ReadJobProgress(const std::filesystem::path& directory);

}  // namespace dsv3::formats
