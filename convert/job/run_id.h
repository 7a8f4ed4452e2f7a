#pragma once

#include <compare>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::convert {

// Identifies one of the runs that make an output directory together: a run of the whole job, one of
// n parts (--part), or a process that helps a run (MPI). Each has a journal of its own, and runs
// and parts have a lock of their own, so that no two machines write one file.
struct RunId {
  enum class Kind { kJob, kPart, kProcess };
  Kind kind = Kind::kJob;
  std::uint64_t index = 0;  // of a part or process, from 0
  std::uint64_t count = 1;  // of parts
  // clang-tidy 14 takes the 0 of a default <=> for a pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const RunId&, const RunId&) = default;
};

// For messages: "this job", "part 3/16", "process 2".
std::string ShownName(const RunId& run);

// The name of the run's own file: `base`, `base`-part-3-of-16 or `base`-process-2.
std::string FileNameOf(std::string_view base, const RunId& run);

// The run whose file this is; nothing for any other name.
std::optional<RunId> RunOfFile(std::string_view base, std::string_view name);

// The runs that have a file of this base in the directory, the job's own first.
std::vector<RunId> FindRuns(const std::filesystem::path& directory, std::string_view base);

}  // namespace dsv3::convert
