#include "convert/job/run_id.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include <fmt/format.h>

namespace dsv3::convert {
namespace {

constexpr std::string_view kPartInfix = "-part-";
constexpr std::string_view kOfInfix = "-of-";
constexpr std::string_view kProcessInfix = "-process-";

// Takes a decimal number off the front of `text`.
bool TakeNumber(std::string_view& text, std::uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool TakeText(std::string_view& text, std::string_view expected) {
  if (!text.starts_with(expected)) return false;
  text.remove_prefix(expected.size());
  return true;
}

}  // namespace

std::string ShownName(const RunId& run) {
  switch (run.kind) {
    case RunId::Kind::kPart:
      return fmt::format("part {}/{}", run.index, run.count);
    case RunId::Kind::kProcess:
      return fmt::format("process {}", run.index);
    case RunId::Kind::kJob:
      break;
  }
  return "this job";
}

std::string FileNameOf(std::string_view base, const RunId& run) {
  switch (run.kind) {
    case RunId::Kind::kPart:
      return fmt::format("{}{}{}{}{}", base, kPartInfix, run.index, kOfInfix, run.count);
    case RunId::Kind::kProcess:
      return fmt::format("{}{}{}", base, kProcessInfix, run.index);
    case RunId::Kind::kJob:
      break;
  }
  return std::string(base);
}

std::optional<RunId> RunOfFile(std::string_view base, std::string_view name) {
  std::string_view rest = name;
  if (!TakeText(rest, base)) return std::nullopt;
  RunId run;
  if (TakeText(rest, kPartInfix)) {
    run.kind = RunId::Kind::kPart;
    if (!TakeNumber(rest, run.index) || !TakeText(rest, kOfInfix) || !TakeNumber(rest, run.count)) {
      return std::nullopt;
    }
  } else if (TakeText(rest, kProcessInfix)) {
    run.kind = RunId::Kind::kProcess;
    if (!TakeNumber(rest, run.index)) return std::nullopt;
  }
  // Numbers with leading zeros are not ours: two names for one run.
  if (!rest.empty() || FileNameOf(base, run) != name) return std::nullopt;
  return run;
}

std::vector<RunId> FindRuns(const std::filesystem::path& directory, std::string_view base) {
  std::vector<RunId> runs;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (const auto run = RunOfFile(base, entry->path().filename().string())) runs.push_back(*run);
  }
  std::sort(runs.begin(), runs.end());
  return runs;
}

}  // namespace dsv3::convert
