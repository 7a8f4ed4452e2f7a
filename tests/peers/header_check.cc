// dsv3-header-check FILE...: for each file one line of JSON that says whether the parser accepts it
// as a safetensors file, what the header holds, and whether the writer makes the same header from
// it. For comparison with the reference; exit status 0 whatever the files are.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "formats/error.h"
#include "formats/json/json_writer.h"
#include "formats/safetensors.h"

namespace {

using dsv3::formats::JsonWriter;
using dsv3::formats::SafetensorsHeader;

bool WriterAgrees(const SafetensorsHeader& header, const std::string& content) {
  auto tensors = header.tensors;
  dsv3::formats::LayOutTensors(tensors);
  return content.starts_with(dsv3::formats::SerializeSafetensorsHeader(tensors, header.metadata));
}

void WriteHeader(JsonWriter& json, const SafetensorsHeader& header) {
  json.Key("metadata");
  json.BeginObject();
  for (const auto& [key, value] : header.metadata) {
    json.Key(key);
    json.String(value);
  }
  json.EndObject();
  json.Key("tensors");
  json.BeginArray();
  for (const auto& tensor : header.tensors) {
    json.BeginArray();
    json.String(tensor.name);
    json.String(dsv3::formats::DtypeName(tensor.dtype));
    json.BeginArray();
    for (const std::uint64_t dimension : tensor.shape) json.Uint(dimension);
    json.EndArray();
    json.Uint(tensor.begin);
    json.Uint(tensor.end);
    json.EndArray();
  }
  json.EndArray();
  json.Key("nonconformities");
  json.BeginArray();
  for (const auto& finding : header.nonconformities) json.String(finding.kind);
  json.EndArray();
}

std::string Check(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(stream),
                            std::istreambuf_iterator<char>()};
  JsonWriter json(0);
  json.BeginObject();
  json.Key("file");
  json.String(path);
  try {
    const SafetensorsHeader header = dsv3::formats::ParseSafetensorsHeader(
        std::as_bytes(std::span(content)), content.size(), "the file");
    json.Key("accepted");
    json.Bool(true);
    WriteHeader(json, header);
    json.Key("writer_agrees");
    json.Bool(WriterAgrees(header, content));
  } catch (const dsv3::Error& error) {
    json.Key("accepted");
    json.Bool(false);
    json.Key("message");
    json.String(error.message());
  }
  json.EndObject();
  return json.Take();
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) std::puts(Check(argv[i]).c_str());
  return 0;
}
