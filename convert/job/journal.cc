#include "convert/job/journal.h"

#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/io/existence.h"
#include "formats/job_journal.h"
#include "formats/json/json_writer.h"
#include "formats/message_text.h"
#include "formats/number_of.h"
#include "formats/relative_name.h"

namespace dsv3::convert {
namespace {

using nlohmann::json;

constexpr std::uint64_t kVersion = 2;

void WriteDigests(formats::JsonWriter& writer, const Digests& digests) {
  writer.String(digests.xxh3);
  writer.String(digests.sha256);
}

std::string HeadLine(const JournalHead& head) {
  formats::JsonWriter writer(0);
  writer.BeginObject();
  writer.Uint("dsv3_journal", kVersion);
  writer.String("recipe", head.recipe);
  writer.String("fingerprint", head.fingerprint);
  writer.BeginArray("sources");
  for (const JournalSource& source : head.sources) {
    writer.BeginArray();
    writer.String(source.name);
    writer.Uint(source.bytes);
    writer.Int(source.mtime_ns);
    writer.String(source.header_digest);
    writer.String(source.checkpoint);
    writer.EndArray();
  }
  writer.EndArray();
  writer.Strings("outputs", head.outputs);
  writer.Strings("replaced", head.replaced);
  writer.BeginArray("sides");
  for (const JournalSide& side : head.sides) {
    writer.BeginArray();
    writer.String(side.tensor);
    WriteDigests(writer, side.digests);
    writer.EndArray();
  }
  writer.EndArray();
  writer.String("input", head.input);
  writer.String("command", head.command);
  writer.BeginArray("options");
  for (const auto& [name, value] : head.options) {
    writer.BeginArray();
    writer.String(name);
    writer.Raw(value);
    writer.EndArray();
  }
  writer.EndArray();
  writer.EndObject();
  return formats::DigestedLine(writer.Take());
}

// The shortest text that reads back as the same number, NaN and infinity included: a report of a
// run that continued has the digits of one that was not interrupted.
void WriteExactly(formats::JsonWriter& writer, double value) {
  writer.String(fmt::format("{}", value));
}

double ReadExactly(const json& value) {
  const std::string& text = value.get_ref<const std::string&>();
  const std::optional<double> number = formats::NumberOf<double>(text);
  if (!number) throw std::invalid_argument(text);
  return *number;
}

void WriteQuality(formats::JsonWriter& writer, const quant::Quality& quality) {
  writer.BeginArray();
  for (const std::uint64_t count :
       {quality.elements, quality.nonfinite, quality.saturated, quality.flushed_to_zero,
        quality.blocks, quality.kept_blocks, quality.changed_codes}) {
    writer.Uint(count);
  }
  for (const double value :
       {quality.max_abs_error, quality.sum_squared_error, quality.sum_squares}) {
    WriteExactly(writer, value);
  }
  writer.EndArray();
}

quant::Quality ParseQuality(const json& value) {
  quant::Quality quality;
  std::size_t i = 0;
  for (std::uint64_t* const count :
       {&quality.elements, &quality.nonfinite, &quality.saturated, &quality.flushed_to_zero,
        &quality.blocks, &quality.kept_blocks, &quality.changed_codes}) {
    *count = value.at(i++);
  }
  for (double* const number :
       {&quality.max_abs_error, &quality.sum_squared_error, &quality.sum_squares}) {
    *number = ReadExactly(value.at(i++));
  }
  return quality;
}

void WriteZeros(formats::JsonWriter& writer, const TensorRecord& tensor) {
  writer.BeginObject();
  writer.Uint("zero_runs", tensor.zero_runs);
  writer.Uint("zero_blocks", tensor.zero_blocks);
  writer.EndObject();
}

std::string RecordLine(const FileRecord& record) {
  formats::JsonWriter writer(0);
  writer.BeginObject();
  writer.String("file", record.name);
  writer.Uint("bytes", record.bytes);
  writer.BeginArray("digests");
  WriteDigests(writer, record.file);
  writer.EndArray();
  if (!record.original.sha256.empty() || !record.original.xxh3.empty()) {
    writer.BeginArray("original");
    WriteDigests(writer, record.original);
    writer.EndArray();
  }
  if (!record.bases.empty()) writer.Strings("bases", record.bases);
  writer.BeginArray("tensors");
  for (const TensorRecord& tensor : record.tensors) {
    writer.BeginArray();
    WriteDigests(writer, tensor.output);
    WriteDigests(writer, tensor.streamed);
    writer.Uint(tensor.nan_codes);
    if (tensor.all_zero) writer.Bool(true);
    if (tensor.zero_runs != 0 || tensor.zero_blocks != 0) WriteZeros(writer, tensor);
    if (tensor.quality) WriteQuality(writer, *tensor.quality);
    writer.EndArray();
  }
  writer.EndArray();
  writer.EndObject();
  return formats::DigestedLine(writer.Take());
}

// Names from a journal decide which files are removed, so no name may lead out of the directory.
std::string SafeName(const json& value) {
  std::string name = value;
  if (!formats::UnsafePath(name).empty()) throw std::invalid_argument("path");
  return name;
}

JournalHead ParseHead(const json& value) {
  JournalHead head;
  if (value.at("dsv3_journal").get<std::uint64_t>() != kVersion)
    throw std::invalid_argument("version");
  head.recipe = value.at("recipe");
  head.fingerprint = value.at("fingerprint");
  for (const json& source : value.at("sources")) {
    head.sources.push_back({source.at(0), source.at(1), source.at(2), source.at(3), source.at(4)});
  }
  for (const json& name : value.at("outputs")) head.outputs.push_back(SafeName(name));
  for (const json& name : value.at("replaced")) head.replaced.push_back(SafeName(name));
  for (const json& side : value.at("sides")) {
    head.sides.push_back({side.at(0), {side.at(1), side.at(2)}});
  }
  head.input = value.value("input", "");
  head.command = value.value("command", "");
  for (const json& option : value.value("options", json::array())) {
    head.options.emplace_back(option.at(0), option.at(1).dump());
  }
  return head;
}

FileRecord ParseRecord(const json& value) {
  FileRecord record;
  record.name = SafeName(value.at("file"));
  record.bytes = value.at("bytes");
  record.file = {value.at("digests").at(0), value.at("digests").at(1)};
  if (value.contains("original")) {
    record.original = {value.at("original").at(0), value.at("original").at(1)};
  }
  record.bases = value.value("bases", std::vector<std::string>());
  for (const json& tensor : value.at("tensors")) {
    TensorRecord& read = record.tensors.emplace_back();
    read.output = {tensor.at(0), tensor.at(1)};
    read.streamed = {tensor.at(2), tensor.at(3)};
    read.nan_codes = tensor.at(4);
    for (std::size_t i = 5; i < tensor.size(); ++i) {
      if (tensor[i].is_boolean()) {
        read.all_zero = tensor[i];
      } else if (tensor[i].is_object()) {
        read.zero_runs = tensor[i].at("zero_runs");
        read.zero_blocks = tensor[i].at("zero_blocks");
      } else {
        read.quality = std::make_shared<quant::Quality>(ParseQuality(tensor[i]));
      }
    }
  }
  return record;
}

// The next line of those that another process sent.
std::string_view TakeWholeLine(std::string_view& text) {
  const std::optional<std::string_view> body = formats::TakeDigestedLine(text);
  if (!body) throw Error(ErrorCode::kInternal, "a message of another process came in pieces");
  return *body;
}

// The error that led here is told, and not this one.
void RemoveIfThere(formats::FileSystem& fs, const std::filesystem::path& path) {
  try {
    if (formats::EntryExists(path)) fs.Remove(path);
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
  }
}

}  // namespace

std::optional<JournalState> Journal::Read(const std::filesystem::path& directory,
                                          const RunId& run) {
  const std::filesystem::path path = directory / FileNameOf(kJournalName, run);
  if (!formats::Exists(path)) return std::nullopt;
  const std::string text = formats::ReadSmallFile(path, formats::kMaxJournalBytes);
  std::optional<JournalState> state;
  std::string_view rest = text;
  while (const std::optional<std::string_view> body = formats::TakeDigestedLine(rest)) {
    try {
      const json value = json::parse(*body);
      if (!state) {
        state.emplace();
        state->head = ParseHead(value);
      } else {
        FileRecord record = ParseRecord(value);
        std::string name = record.name;
        state->files.insert_or_assign(std::move(name), std::move(record));
      }
    } catch (const std::exception&) {
      // The line is whole, so another version wrote it.
      throw Error(ErrorCode::kUsage,
                  formats::ShownPath(path) +
                      ": this journal is not of this version of dsv3; finish the run with the "
                      "version that began it, or begin anew with --overwrite",
                  {path.string(), ""});
    }
  }
  return state;
}

Journal::Journal(formats::FileSystem& fs, const std::filesystem::path& directory,
                 const JournalHead& head, const std::vector<FileRecord>& records,
                 const RunId& run) {
  // Beside the old one, then in its place: at no time is there a journal without its head.
  const std::filesystem::path path = directory / FileNameOf(kJournalName, run);
  std::filesystem::path partial = path;
  partial += ".partial";
  try {
    file_ = fs.Create(partial, 0);
    const std::string head_line = HeadLine(head);
    file_->WriteAt(0, std::as_bytes(std::span(head_line)));
    bytes_ = head_line.size();
    Append(records);
    // Some file systems cannot rename an open file.
    file_.reset();
    fs.Rename(partial, path);
  } catch (const Error&) {
    // It says nothing that the run which comes next needs.
    file_.reset();
    RemoveIfThere(fs, partial);
    throw;
  }
  fs.SyncDirectory(directory);
  file_ = fs.OpenExisting(path);
}

void Journal::Append(const std::vector<FileRecord>& records) {
  const std::string lines = JournalLines(records);
  const std::lock_guard lock(mutex_);
  if (!lines.empty()) file_->WriteAt(bytes_, std::as_bytes(std::span(lines)));
  bytes_ += lines.size();
  file_->Sync();
}

std::string JournalHeadLine(const JournalHead& head) { return HeadLine(head); }

JournalHead ParseJournalHead(std::string_view line) {
  return ParseHead(json::parse(TakeWholeLine(line)));
}

std::string JournalLines(const std::vector<FileRecord>& records) {
  std::string lines;
  for (const FileRecord& record : records) lines += RecordLine(record);
  return lines;
}

std::vector<FileRecord> ParseJournalLines(std::string_view lines) {
  std::vector<FileRecord> records;
  while (!lines.empty()) records.push_back(ParseRecord(json::parse(TakeWholeLine(lines))));
  return records;
}

JobJournals ReadJournals(const std::filesystem::path& directory, bool skip_unreadable) {
  JobJournals journals;
  for (const RunId& name : FindRuns(directory, kJournalName)) {
    std::optional<JournalState> state;
    try {
      state = Journal::Read(directory, name);
    } catch (const Error& error) {
      if (!skip_unreadable || error.code() != ErrorCode::kUsage) throw;
    }
    if (!state) continue;
    BegunRun& run = journals.runs.emplace_back();
    run.name = name;
    run.head = std::move(state->head);
    for (auto& [file, record] : state->files) {
      run.files.push_back(file);
      journals.files.insert_or_assign(file, std::move(record));
    }
  }
  return journals;
}

void RemoveJournals(const std::filesystem::path& directory, bool but_the_jobs,
                    formats::FileSystem& file_system) {
  constexpr std::string_view kPartial = ".partial";
  std::set<std::filesystem::path> removed;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    std::string_view name = file;
    if (name.ends_with(kPartial)) name.remove_suffix(kPartial.size());
    const std::optional<RunId> run = RunOfFile(kJournalName, name);
    if (run && !(but_the_jobs && *run == RunId())) removed.insert(entry->path());
  }
  for (const std::filesystem::path& path : removed) file_system.Remove(path);
  if (!removed.empty()) file_system.SyncDirectory(directory);
}

}  // namespace dsv3::convert
