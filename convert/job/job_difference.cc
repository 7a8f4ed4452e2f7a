#include "convert/job/job_difference.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "formats/message_text.h"
#include "formats/unfinished_job.h"

namespace dsv3::convert {
namespace {

using formats::ExactBytes;
using formats::ShellWord;
using nlohmann::json;
using Options = std::vector<std::pair<std::string, std::string>>;

constexpr std::string_view kNotGiven = "not given";

std::string WasAndIs(std::string_view name, std::string_view before, std::string_view now) {
  return fmt::format("{} was {}, and is {} now", name, before, now);
}

// --- options

// The option of the command line that a member of the manifest's options records.
std::string OptionName(std::string_view member) {
  std::string name = "--" + std::string(member);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string ShownValue(const json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "given" : std::string(kNotGiven);
  if (value.is_string()) return ShellWord(value.get_ref<const std::string&>());
  if (!value.is_array()) return value.dump();
  if (value.empty()) return std::string(kNotGiven);
  std::vector<std::string> words;
  for (const json& element : value) words.push_back(ShownValue(element));
  return fmt::format("{}", fmt::join(words, " and "));
}

// The value of a member that a job's options do not have.
std::string_view Unrecorded(std::string_view member) {
  return member == "side_files" ? "model" : kNotGiven;
}

std::string ValueIn(const Options& options, std::string_view member) {
  const auto found = std::find_if(options.begin(), options.end(),
                                  [&](const auto& option) { return option.first == member; });
  if (found == options.end()) return std::string(Unrecorded(member));
  const json value = json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? ShellWord(found->second) : ShownValue(value);
}

std::string OptionDifference(std::string_view member, const Options& before, const Options& now) {
  const std::string value_before = ValueIn(before, member);
  const std::string value_now = ValueIn(now, member);
  if (value_before == value_now) return "";
  // Members that are digests of what a file of an option says.
  if (member == "keys_xxh3_128") return "the FILE of --format keys:FILE says something else now";
  if (member == "expert_location_xxh3_128") {
    return "the experts are placed differently now (--ep-placement, --expert-load)";
  }
  return WasAndIs(OptionName(member), value_before, value_now);
}

std::string OptionDifferences(const Options& before, const Options& now) {
  std::vector<std::string> members;
  for (const Options* options : {&before, &now}) {
    for (const auto& [member, value] : *options) {
      if (std::count(members.begin(), members.end(), member) == 0) members.push_back(member);
    }
  }
  std::vector<std::string> differences;
  for (const std::string& member : members) {
    std::string difference = OptionDifference(member, before, now);
    if (!difference.empty()) differences.push_back(std::move(difference));
  }
  return fmt::format("{}", fmt::join(differences, "; "));
}

// --- files of the source

bool IsOfCheckpoint(const JournalSource& source, const JournalSource& other) {
  return source.checkpoint == other.checkpoint && source.name == other.name;
}

const JournalSource* Find(const std::vector<JournalSource>& sources, const JournalSource& like) {
  const auto found = std::find_if(sources.begin(), sources.end(), [&](const JournalSource& source) {
    return IsOfCheckpoint(source, like);
  });
  return found == sources.end() ? nullptr : &*found;
}

std::string ShownName(const JournalSource& source) {
  const std::string name = ShellWord(source.name);
  return source.checkpoint.empty() ? name : fmt::format("{} of --{}", name, source.checkpoint);
}

// A time of a journal: since 1970 for weights; for side files, which have no header, in the clock
// of the file system library.
std::chrono::nanoseconds SinceEpoch(const JournalSource& source) {
  const std::chrono::nanoseconds time(source.mtime_ns);
  if (!source.header_digest.empty()) return time;
  const std::chrono::time_point<std::chrono::file_clock, std::chrono::nanoseconds> of_file(time);
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::file_clock::to_sys(of_file).time_since_epoch());
}

std::string ShownTime(std::chrono::nanoseconds time, bool with_fraction) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  std::string text =
      fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::gmtime(static_cast<std::time_t>(seconds.count())));
  if (with_fraction) text += fmt::format(".{:09}", (time - seconds).count());
  return text;
}

std::string TimesOf(const JournalSource& before, const JournalSource& now) {
  const std::chrono::nanoseconds time_before = SinceEpoch(before);
  const std::chrono::nanoseconds time_now = SinceEpoch(now);
  const bool same_second = std::chrono::floor<std::chrono::seconds>(time_before) ==
                           std::chrono::floor<std::chrono::seconds>(time_now);
  return fmt::format("its time was {}, and is {} UTC now", ShownTime(time_before, same_second),
                     ShownTime(time_now, same_second));
}

struct FileDifference {
  std::string text;
  bool only_time = false;
};

FileDifference CompareFiles(const JournalSource& before, const JournalSource& now) {
  const std::string name = ShownName(before);
  if (before.bytes != now.bytes) {
    return {fmt::format("{} had {}, and has {} now", name, ExactBytes(before.bytes),
                        ExactBytes(now.bytes))};
  }
  if (before.header_digest != now.header_digest) {
    return {fmt::format("{} has another header (its XXH3-128 was {}, and is {} now)", name,
                        before.header_digest, now.header_digest)};
  }
  if (before.mtime_ns != now.mtime_ns) {
    return {fmt::format("{} was modified ({})", name, TimesOf(before, now)), true};
  }
  return {};
}

// "model.safetensors", "model-00001-of-00004.safetensors and 3 more weight files".
std::string WeightsOf(const std::vector<JournalSource>& sources) {
  std::string first;
  std::size_t more = 0;
  for (const JournalSource& source : sources) {
    if (source.header_digest.empty() || !source.checkpoint.empty()) continue;
    if (first.empty()) {
      first = ShownName(source);
    } else {
      ++more;
    }
  }
  if (more == 0) return first;
  return fmt::format("{} and {} more weight file{}", first, more, more == 1 ? "" : "s");
}

// Whether the sources are two checkpoints that have no weight file of one name.
bool HaveOtherWeights(const std::vector<JournalSource>& before,
                      const std::vector<JournalSource>& now) {
  return !WeightsOf(before).empty() && !WeightsOf(now).empty() &&
         std::none_of(before.begin(), before.end(), [&](const JournalSource& source) {
           return !source.header_digest.empty() && Find(now, source) != nullptr;
         });
}

std::vector<FileDifference> FileDifferences(const std::vector<JournalSource>& before,
                                            const std::vector<JournalSource>& now) {
  std::vector<FileDifference> differences;
  for (const JournalSource& source : before) {
    const JournalSource* const same = Find(now, source);
    FileDifference difference = same == nullptr
                                    ? FileDifference{fmt::format("{} is gone", ShownName(source))}
                                    : CompareFiles(source, *same);
    if (!difference.text.empty()) differences.push_back(std::move(difference));
  }
  for (const JournalSource& source : now) {
    if (Find(before, source) != nullptr) continue;
    differences.push_back({fmt::format("{} is new", ShownName(source))});
  }
  return differences;
}

}  // namespace

std::string JobDifference::Text() const {
  std::vector<std::string_view> parts;
  for (const std::string* part : {&command, &input, &files, &options}) {
    if (!part->empty()) parts.push_back(*part);
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

JobDifference CompareJobs(const JournalHead& before, const JournalHead& now) {
  JobDifference difference;
  if (before.recipe != now.recipe) {
    difference.command = WasAndIs("the command", formats::CommandOfRecipe(before.recipe),
                                  formats::CommandOfRecipe(now.recipe));
  } else if (!before.options.empty()) {
    difference.options = OptionDifferences(before.options, now.options);
  }
  const std::vector<FileDifference> files = FileDifferences(before.sources, now.sources);
  if (files.empty()) return difference;
  const bool other_weights = HaveOtherWeights(before.sources, now.sources);
  // Commands may describe one IN by other files: a layout by those of the model that it makes.
  if (!other_weights || difference.command.empty()) difference.files = files.front().text;
  if (other_weights && difference.command.empty()) {
    difference.files =
        fmt::format("IN had {}, and has {} now", WeightsOf(before.sources), WeightsOf(now.sources));
  } else if (files.size() > 1 && !difference.files.empty()) {
    difference.files += fmt::format(", and {} more file{} differ{}", files.size() - 1,
                                    files.size() == 2 ? "" : "s", files.size() == 2 ? "s" : "");
  }
  difference.only_times = std::all_of(files.begin(), files.end(),
                                      [](const FileDifference& file) { return file.only_time; });
  if (!before.input.empty() && !now.input.empty() && before.input != now.input) {
    difference.input = WasAndIs("IN", before.input, now.input);
  }
  return difference;
}

JournalHead HeadOf(const formats::ManifestJob& job) {
  JournalHead head;
  head.recipe = job.recipe;
  head.options = job.options;
  for (const formats::ManifestSourceFile& file : job.source_files) {
    head.sources.push_back({file.name, file.bytes, 0, file.header_xxh3, file.checkpoint});
  }
  return head;
}

}  // namespace dsv3::convert
