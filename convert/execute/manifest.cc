#include "convert/execute/manifest.h"

#include <algorithm>
#include <map>

#include "formats/checkpoint_files.h"
#include "formats/error.h"
#include "formats/json/json_reader.h"
#include "formats/json/json_writer.h"
#include "formats/shard_index.h"

namespace dsv3::convert {
namespace {

constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{1} << 30;
constexpr std::string_view kHead =
    "{\n\"format\": \"dsv3-checkpoint-manifest\",\n\"version\": 1,\n";
constexpr std::string_view kJobEnd = "\n]\n}";
constexpr std::string_view kFilesKey = ",\n\"files\": [\n";

void WriteDigests(formats::JsonWriter& writer, const Digests& digests) {
  writer.Key("xxh3_128");
  writer.String(digests.xxh3);
  if (digests.sha256.empty()) return;
  writer.Key("sha256");
  writer.String(digests.sha256);
}

void WriteDtypeAndShape(formats::JsonWriter& writer, formats::Dtype dtype,
                        const formats::Shape& shape) {
  writer.Key("dtype");
  writer.String(formats::DtypeName(dtype));
  writer.Key("shape");
  writer.BeginArray();
  for (const std::uint64_t dimension : shape) writer.Uint(dimension);
  writer.EndArray();
}

void WriteSource(formats::JsonWriter& writer, const CatalogTensor& tensor, const Digests& digests) {
  writer.BeginObject();
  writer.Key("name");
  writer.String(tensor.name);
  WriteDtypeAndShape(writer, tensor.dtype, tensor.shape);
  WriteDigests(writer, digests);
  writer.EndObject();
}

std::string TensorJson(const PlannedFile& file, const PlannedTensor& tensor,
                       const TensorRecord& record, const Catalog& catalog,
                       const std::unordered_map<std::uint32_t, Digests>& side_digests) {
  formats::JsonWriter writer(0);
  writer.BeginObject();
  writer.Key("name");
  writer.String(tensor.entry.name);
  writer.Key("file");
  writer.String(file.name);
  WriteDtypeAndShape(writer, tensor.entry.dtype, tensor.entry.shape);
  WriteDigests(writer, record.output);
  if (record.nan_codes != 0) {
    writer.Key("nan_codes");
    writer.Uint(record.nan_codes);
  }
  writer.Key("rule");
  writer.String(tensor.expression->rule());
  writer.Key("sources");
  writer.BeginArray();
  WriteSource(writer, catalog.tensors()[tensor.expression->streamed_source()], record.streamed);
  for (const std::uint32_t side : tensor.expression->side_sources()) {
    WriteSource(writer, catalog.tensors()[side], side_digests.at(side));
  }
  writer.EndArray();
  writer.EndObject();
  return writer.Take();
}

std::vector<ManifestFile> ReadFileList(formats::JsonReader& reader) {
  std::vector<ManifestFile> files;
  reader.BeginArray();
  while (reader.NextElement()) {
    ManifestFile file;
    reader.BeginObject();
    while (const auto member = reader.NextMember()) {
      if (*member == "name") {
        file.name = reader.String();
      } else if (*member == "bytes") {
        file.bytes = reader.Uint();
      } else {
        reader.SkipValue();
      }
    }
    files.push_back(std::move(file));
  }
  return files;
}

// One element a line, so that line tools can work on a manifest of 46,183 tensors.
class Lines {
 public:
  explicit Lines(std::string& text) : text_(text) {}
  void Add(std::string_view line) {
    if (!first_) text_ += ",\n";
    first_ = false;
    text_ += line;
  }

 private:
  std::string& text_;
  bool first_ = true;
};

}  // namespace

std::string ManifestJob(const Plan& plan, const Catalog& catalog, const RunOptions& run) {
  formats::JsonWriter options(0);
  options.BeginObject();
  for (const PlanOption& option : plan.options) {
    options.Key(option.name);
    options.Raw(option.json);
  }
  options.Key("checksum");
  options.String(run.checksum == ChecksumMode::kSha256 ? "sha256" : "none");
  options.Key("tensor_sha256");
  options.Bool(run.tensor_sha256);
  options.EndObject();

  formats::JsonWriter removed(0);
  removed.BeginObject();
  for (const auto& [path, json] : plan.removed_config) {
    removed.Key(path);
    removed.Raw(json);
  }
  removed.EndObject();

  std::string job = "\"recipe\": ";
  formats::AppendJsonString(job, plan.recipe);
  job += ",\n\"options\": " + options.Take() +
         ",\n\"source\": {\n\"removed_config\": " + removed.Take() + ",\n\"files\": [\n";
  Lines lines(job);
  for (const SourceFile& file : catalog.files()) {
    formats::JsonWriter writer(0);
    writer.BeginObject();
    writer.Key("name");
    writer.String(file.name);
    writer.Key("bytes");
    writer.Uint(file.bytes);
    writer.Key("header_xxh3_128");
    writer.String(file.header_digest);
    writer.EndObject();
    lines.Add(writer.text());
  }
  job += kJobEnd;
  return job;
}

std::string ManifestText(const std::string& job, const Plan& plan, const Catalog& catalog,
                         const std::unordered_map<std::string, FileRecord>& records,
                         const std::unordered_map<std::uint32_t, Digests>& side_digests) {
  std::string text(kHead);
  text += job;
  text += kFilesKey;
  std::map<std::string_view, const FileRecord*> by_name;
  for (const auto& [name, record] : records) by_name.emplace(name, &record);
  Lines files(text);
  for (const auto& [name, record] : by_name) {
    formats::JsonWriter writer(0);
    writer.BeginObject();
    writer.Key("name");
    writer.String(name);
    writer.Key("bytes");
    writer.Uint(record->bytes);
    if (!record->file.sha256.empty()) {
      writer.Key("sha256");
      writer.String(record->file.sha256);
    }
    writer.EndObject();
    files.Add(writer.text());
  }
  text += "\n],\n\"tensors\": [\n";
  Lines tensors(text);
  for (const PlannedFile& file : plan.files) {
    const FileRecord& record = records.at(file.name);
    for (std::size_t i = 0; i < file.tensors.size(); ++i) {
      tensors.Add(TensorJson(file, file.tensors[i], record.tensors[i], catalog, side_digests));
    }
  }
  text += "\n]\n}\n";
  return text;
}

std::optional<ManifestSummary> ReadManifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kManifestName;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  const std::string text = formats::ReadSmallFile(path, kMaxManifestBytes);
  const std::size_t job_end = text.find(std::string(kJobEnd) + std::string(kFilesKey));
  if (!text.starts_with(kHead) || job_end == std::string::npos) return std::nullopt;
  ManifestSummary summary;
  summary.job = text.substr(kHead.size(), job_end + kJobEnd.size() - kHead.size());
  try {
    const std::string file = path.string();
    formats::JsonReader reader(
        text, {.file = file, .part = "the manifest", .advice = "restore it or remove it"});
    reader.BeginObject();
    while (const auto key = reader.NextMember()) {
      if (*key == "recipe") {
        summary.recipe = reader.String();
      } else if (*key == "source") {
        reader.BeginObject();
        while (const auto member = reader.NextMember()) {
          if (*member != "files") {
            reader.SkipValue();
            continue;
          }
          for (ManifestFile& source : ReadFileList(reader)) {
            summary.source_files.push_back(std::move(source.name));
          }
        }
      } else if (*key == "files") {
        summary.files = ReadFileList(reader);
      } else {
        reader.SkipValue();
      }
    }
    reader.End();
  } catch (const Error&) {
    return std::nullopt;
  }
  // These names decide what --overwrite removes.
  for (const ManifestFile& file : summary.files) {
    if (!formats::UnsafePath(file.name).empty()) return std::nullopt;
  }
  return summary;
}

}  // namespace dsv3::convert
