#include "formats/manifest.h"

#include <algorithm>

#include "formats/hash/sha256.h"
#include "formats/json/json_writer.h"

namespace dsv3::formats {
namespace {

constexpr std::string_view kHead =
    "{\n\"format\": \"dsv3-checkpoint-manifest\",\n\"version\": 1,\n";

void WriteMember(JsonWriter& writer, std::string_view key, const std::string& value) {
  if (value.empty()) return;
  writer.String(key, value);
}

void WriteDtypeAndShape(JsonWriter& writer, Dtype dtype, const Shape& shape) {
  writer.String("dtype", DtypeName(dtype));
  writer.Uints("shape", shape);
}

void WriteSource(JsonWriter& writer, const ManifestSource& source) {
  writer.BeginObject();
  WriteMember(writer, "checkpoint", source.checkpoint);
  WriteMember(writer, "file", source.file);
  writer.String("name", source.name);
  WriteDtypeAndShape(writer, source.dtype, source.shape);
  WriteMember(writer, "xxh3_128", source.xxh3);
  WriteMember(writer, "sha256", source.sha256);
  writer.EndObject();
}

std::string RawObject(const std::vector<std::pair<std::string, std::string>>& members) {
  JsonWriter writer(0);
  writer.BeginObject();
  for (const auto& [name, json] : members) {
    writer.Raw(name, json);
  }
  writer.EndObject();
  return writer.Take();
}

std::string DroppedLines(const std::vector<std::pair<std::string, std::uint64_t>>& dropped) {
  std::string lines;
  for (const auto& [pattern, tensors] : dropped) {
    JsonWriter writer(0);
    writer.BeginObject();
    writer.String("pattern", pattern);
    writer.Uint("tensors", tensors);
    writer.EndObject();
    lines += (lines.empty() ? "" : ",\n") + writer.text();
  }
  return lines;
}

std::string ContentLine(const ManifestTensor& tensor) {
  JsonWriter writer(0);
  writer.BeginArray();
  writer.String(tensor.name);
  writer.String(DtypeName(tensor.dtype));
  writer.BeginArray();
  for (const std::uint64_t dimension : tensor.shape) writer.Uint(dimension);
  writer.EndArray();
  writer.String(tensor.xxh3);
  writer.EndArray();
  return writer.Take() + '\n';
}

std::string DigestOfLines(std::vector<std::string>& lines) {
  std::sort(lines.begin(), lines.end());
  Sha256 hash;
  for (const std::string& line : lines) hash.Update(std::as_bytes(std::span(line)));
  return hash.FinishHex();
}

}  // namespace

const ManifestFile* Manifest::FindFile(std::string_view name) const {
  const auto found =
      std::lower_bound(files.begin(), files.end(), name,
                       [](const ManifestFile& file, std::string_view n) { return file.name < n; });
  return found != files.end() && found->name == name ? &*found : nullptr;
}

std::string ManifestJobText(const ManifestJob& job) {
  std::string text = "\"recipe\": ";
  AppendJsonString(text, job.recipe);
  text += ",\n\"options\": " + RawObject(job.options) +
          ",\n\"source\": {\n\"removed_config\": " + RawObject(job.removed_config);
  if (!job.dropped.empty()) text += ",\n\"dropped\": [\n" + DroppedLines(job.dropped) + "\n]";
  text += ",\n\"files\": [\n";
  bool first = true;
  for (const ManifestSourceFile& file : job.source_files) {
    JsonWriter writer(0);
    writer.BeginObject();
    WriteMember(writer, "checkpoint", file.checkpoint);
    writer.String("name", file.name);
    writer.Uint("bytes", file.bytes);
    WriteMember(writer, "header_xxh3_128", file.header_xxh3);
    writer.EndObject();
    if (!first) text += ",\n";
    first = false;
    text += writer.text();
  }
  text += "\n]\n}";
  return text;
}

ManifestWriter::ManifestWriter(std::string_view job_text) : text_(kHead) {
  text_ += job_text;
  text_ += ",\n\"files\": [\n";
}

void ManifestWriter::Reserve(std::size_t tensors, std::size_t bytes) {
  text_.reserve(bytes);
  content_lines_.reserve(tensors);
}

// One element a line, so that line tools can work on a manifest of 46,183 tensors.
void ManifestWriter::AddLine(std::string_view line) {
  if (!first_) text_ += ",\n";
  first_ = false;
  text_ += line;
}

void ManifestWriter::AddFile(const ManifestFile& file) {
  JsonWriter writer(0);
  writer.BeginObject();
  writer.String("name", file.name);
  writer.Uint("bytes", file.bytes);
  WriteMember(writer, "sha256", file.sha256);
  WriteMember(writer, "header_xxh3_128", file.header_xxh3);
  if (!file.by_recipe) {
    writer.Bool("by_recipe", false);
  }
  writer.EndObject();
  AddLine(writer.text());
}

void ManifestWriter::BeginTensors() {
  text_ += "\n],\n\"tensors\": [\n";
  first_ = true;
  in_tensors_ = true;
}

void ManifestWriter::AddTensor(const ManifestTensor& tensor) {
  if (!in_tensors_) BeginTensors();
  content_lines_.push_back(ContentLine(tensor));
  JsonWriter writer(0);
  writer.BeginObject();
  writer.String("name", tensor.name);
  writer.String("file", tensor.file);
  WriteDtypeAndShape(writer, tensor.dtype, tensor.shape);
  WriteMember(writer, "xxh3_128", tensor.xxh3);
  WriteMember(writer, "sha256", tensor.sha256);
  if (tensor.nan_codes != 0) {
    writer.Uint("nan_codes", tensor.nan_codes);
  }
  if (!tensor.rule.empty()) {
    writer.String("rule", tensor.rule);
    writer.BeginArray("sources");
    for (const ManifestSource& source : tensor.sources) WriteSource(writer, source);
    writer.EndArray();
  }
  writer.EndObject();
  AddLine(writer.text());
}

std::string ManifestWriter::Finish() {
  if (!in_tensors_) BeginTensors();
  content_digest_ = DigestOfLines(content_lines_);
  content_lines_ = {};
  text_ += "\n],\n\"content_digest\": \"" + content_digest_ + "\"\n}\n";
  return std::move(text_);
}

std::string SerializeManifest(const Manifest& manifest) {
  ManifestWriter writer(ManifestJobText(manifest.job));
  for (const ManifestFile& file : manifest.files) writer.AddFile(file);
  for (const ManifestTensor& tensor : manifest.tensors) writer.AddTensor(tensor);
  return writer.Finish();
}

std::string ContentDigest(std::span<const ManifestTensor> tensors) {
  std::vector<std::string> lines;
  lines.reserve(tensors.size());
  for (const ManifestTensor& tensor : tensors) lines.push_back(ContentLine(tensor));
  return DigestOfLines(lines);
}

}  // namespace dsv3::formats
