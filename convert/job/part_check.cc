#include "convert/job/part_check.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "convert/job/output_state.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

// Parts that a message names; of a job array of thousands all may be missing.
constexpr std::uint64_t kNamedParts = 8;

bool IsComplete(const std::filesystem::path& output, const JobJournals& journals, bool waits,
                const std::string& name) {
  const auto record = journals.files.find(name);
  if (record == journals.files.end()) return false;
  const auto has_its_size = [&](const std::string& file) {
    std::error_code error;
    return std::filesystem::file_size(output / file, error) == record->second.bytes && !error;
  };
  return has_its_size(name) || (waits && has_its_size(PartialName(name)));
}

// The files of a part that are missing or differ from its journal.
std::vector<std::string> MissingOf(const std::filesystem::path& output, const Plan& plan,
                                   const FileBundles& bundles, const JobJournals& journals,
                                   bool waits, const RunOptions::Part& part) {
  std::vector<std::string> names;
  for (const std::size_t file : FilesOfPart(plan, bundles, part)) {
    names.push_back(plan.files[file].name);
  }
  if (part.index == 0) {
    for (const PlannedSideFile& side : plan.side_files) names.push_back(side.name);
  }
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string& name) {
                               return IsComplete(output, journals, waits, name);
                             }),
              names.end());
  return names;
}

}  // namespace

void RequireAllParts(const std::filesystem::path& output, const Plan& plan,
                     const FileBundles& bundles, const JobJournals& journals, bool waits) {
  std::uint64_t count = 0;
  for (const BegunRun& run : journals.runs) {
    if (run.name.kind == RunId::Kind::kPart) count = run.name.count;
  }
  if (count == 0) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: no part of this job was made here; run the same command with "
                            "--part 0/N to --part N-1/N first, then with --finish",
                            formats::ShownPath(output)),
                {output.string(), ""});
  }
  std::string missing;
  std::uint64_t missing_parts = 0;
  for (std::uint64_t index = 0; index < count; ++index) {
    const RunId part{RunId::Kind::kPart, index, count};
    const bool begun = std::any_of(journals.runs.begin(), journals.runs.end(),
                                   [&](const BegunRun& run) { return run.name == part; });
    const std::vector<std::string> names =
        MissingOf(output, plan, bundles, journals, waits, {index, count});
    if (begun && names.empty()) continue;
    if (++missing_parts > kNamedParts) continue;
    missing += missing.empty() ? "" : ", ";
    missing += ShownName(part);
    if (names.size() == 1) missing += fmt::format(" ({})", names[0]);
    if (names.size() > 1) missing += fmt::format(" ({} and {} more)", names[0], names.size() - 1);
  }
  if (missing_parts == 0) return;
  if (missing_parts > kNamedParts) {
    missing += fmt::format(" and {} more parts", missing_parts - kNamedParts);
  }
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: parts are missing or not complete: {}; run these with --part, then "
                          "the same command with --finish",
                          formats::ShownPath(output), missing),
              {output.string(), ""});
}

}  // namespace dsv3::convert
