#include "formats/job_journal.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/hash/xxh3.h"
#include "formats/io/existence.h"
#include "formats/json/json_reader.h"
#include "formats/number_of.h"
#include "formats/relative_name.h"

namespace dsv3::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDigestLength = 32;
constexpr std::string_view kPart = "-part-";
constexpr std::string_view kOf = "-of-";

// The number of parts that the name of a part's journal gives; 0 for other names.
std::uint64_t PartsOf(std::string_view name) {
  name.remove_prefix(kJournalName.size());
  const std::size_t of = name.find(kOf);
  if (!name.starts_with(kPart) || of == std::string_view::npos) return 0;
  return NumberOf<std::uint64_t>(name.substr(of + kOf.size())).value_or(0);
}

// Whether a file in an output directory is a journal, of whichever run.
bool IsJournalName(std::string_view name) {
  return name.starts_with(kJournalName) && !name.ends_with(".partial");
}

std::vector<std::string> JournalNames(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (IsJournalName(name)) names.push_back(std::move(name));
  }
  if (error) throw IoError("list", directory.string(), error.value());
  std::sort(names.begin(), names.end());
  return names;
}

// The facts about the job in the first line.
struct Head {
  std::string recipe;
  std::string command;
  std::vector<std::string> outputs;
};

// The reader of one line. Throws Error (kBadInput) for another version's.
Head ParseHead(std::string_view line, const std::string& name) {
  Head head;
  JsonReader reader(line, {.file = name, .part = "the journal", .advice = "begin anew"});
  reader.BeginObject();
  while (const auto member = reader.NextMember()) {
    if (*member == "recipe") {
      head.recipe = reader.String();
    } else if (*member == "command") {
      head.command = reader.String();
    } else if (*member == "outputs") {
      reader.BeginArray();
      while (reader.NextElement()) head.outputs.emplace_back(reader.String());
    } else {
      reader.SkipValue();
    }
  }
  reader.End();
  return head;
}

// The name of the file that a line after the first is about; "file" is its first member.
std::string ParseFileName(std::string_view line, const std::string& name) {
  JsonReader reader(line, {.file = name, .part = "the journal", .advice = "begin anew"});
  reader.BeginObject();
  const auto member = reader.NextMember();
  return member && *member == "file" ? std::string(reader.String()) : std::string();
}

// Adds the content of one journal. Returns whether it has a first line that can be read.
bool AddJournal(const fs::path& directory, const std::string& name, Head& head,
                std::set<std::string>& outputs, std::set<std::string>& completed) {
  try {
    const std::string text = ReadSmallFile(directory / name, kMaxJournalBytes);
    std::string_view rest = text;
    const std::optional<std::string_view> first = TakeDigestedLine(rest);
    if (!first) return false;
    head = ParseHead(*first, name);
    outputs.insert(head.outputs.begin(), head.outputs.end());
    while (const std::optional<std::string_view> line = TakeDigestedLine(rest)) {
      completed.insert(ParseFileName(*line, name));
    }
    return true;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;
    return false;
  }
}

}  // namespace

std::string DigestedLine(std::string text) { return Xxh3Hex(text) + ' ' + std::move(text) + '\n'; }

std::optional<std::string_view> TakeDigestedLine(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos || end <= kDigestLength) return std::nullopt;
  const std::string_view digest = text.substr(0, kDigestLength);
  const std::string_view body = text.substr(kDigestLength + 1, end - kDigestLength - 1);
  if (digest != Xxh3Hex(body)) return std::nullopt;
  text.remove_prefix(end + 1);
  return body;
}

std::optional<JobProgress> ReadJobProgress(const fs::path& directory) {
  std::optional<JobProgress> progress;
  std::set<std::string> outputs;
  std::set<std::string> completed;
  for (const std::string& name : JournalNames(directory)) {
    Head head;
    if (!AddJournal(directory, name, head, outputs, completed)) continue;
    if (!progress) {
      progress = JobProgress{
          .journal = name, .recipe = std::move(head.recipe), .command = std::move(head.command)};
    }
    progress->parts = std::max(progress->parts, PartsOf(name));
  }
  if (!progress) return std::nullopt;
  progress->files = outputs.size();
  for (const std::string& name : outputs) {
    // Index and manifest have no line: they are written when all else is complete.
    const bool there = UnsafePath(name).empty() && Exists(directory / name);
    if (there || completed.count(name) != 0) ++progress->completed;
  }
  return progress;
}

}  // namespace dsv3::formats
